// yamuxpeer is HashiCorp's own yamux at one end of standard input and output, for the interop tests.
//
// Usage: yamuxpeer server|client SCENARIO
//
// It prints one line of JSON on standard error when its part is done, and exits 0 when all of it held.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

type pipe struct {
	io.Reader
	io.Writer
}

func (pipe) Close() error { return os.Stdout.Close() }

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "yamuxpeer: "+format+"\n", args...)
	os.Exit(1)
}

func report(values map[string]any) {
	line, err := json.Marshal(values)
	if err != nil {
		fail("report: %v", err)
	}
	fmt.Fprintln(os.Stderr, string(line))
}

// echo answers each of n streams with what it sends, and closes when the other side has.
func echo(session *yamux.Session, n int) {
	var wait sync.WaitGroup
	for i := 0; i < n; i++ {
		stream, err := session.AcceptStream()
		if err != nil {
			fail("accept %d: %v", i, err)
		}
		wait.Add(1)
		go func() {
			defer wait.Done()
			if _, err := io.Copy(stream, stream); err != nil {
				fail("echo: %v", err)
			}
			stream.Close()
		}()
	}
	wait.Wait()
}

// callers opens n streams at once, sends size random bytes on each, expects them back, and closes. (It closes last:
// on a stream that it has closed itself, this module reads only what has already come.)
func callers(session *yamux.Session, n, size int) {
	var wait sync.WaitGroup
	for i := 0; i < n; i++ {
		wait.Add(1)
		go func(seed int64) {
			defer wait.Done()
			stream, err := session.OpenStream()
			if err != nil {
				fail("open: %v", err)
			}
			sent := make([]byte, size)
			rand.New(rand.NewSource(seed)).Read(sent)
			go func() {
				if _, err := stream.Write(sent); err != nil {
					fail("write: %v", err)
				}
			}()
			got := make([]byte, size)
			if n, err := io.ReadFull(stream, got); err != nil {
				fail("read: %d of %d bytes: %v", n, size, err)
			}
			if !bytes.Equal(got, sent) {
				fail("stream %d came back changed", stream.StreamID())
			}
			stream.Close()
		}(int64(i))
	}
	wait.Wait()
}

// slow reads one stream in small pieces with pauses, so that the other side must wait for window, and reports a hash.
func slow(session *yamux.Session) {
	stream, err := session.AcceptStream()
	if err != nil {
		fail("accept: %v", err)
	}
	hash := sha256.New()
	piece := make([]byte, 48*1024)
	total := 0
	for {
		n, err := stream.Read(piece)
		hash.Write(piece[:n])
		total += n
		if err == io.EOF {
			break
		}
		if err != nil {
			fail("read: %v", err)
		}
		time.Sleep(time.Millisecond)
	}
	stream.Close()
	report(map[string]any{"bytes": total, "sha256": hex.EncodeToString(hash.Sum(nil))})
}

// halfClose hears all of a stream to its end and only then answers, on the half that is still open.
func halfClose(session *yamux.Session) {
	stream, err := session.AcceptStream()
	if err != nil {
		fail("accept: %v", err)
	}
	got, err := io.ReadAll(stream)
	if err != nil {
		fail("read: %v", err)
	}
	if _, err := fmt.Fprintf(stream, "heard %d bytes", len(got)); err != nil {
		fail("write: %v", err)
	}
	stream.Close()
}

// reset reads the first bytes of a stream and expects a reset after them; then the session must still work.
func reset(session *yamux.Session) {
	stream, err := session.AcceptStream()
	if err != nil {
		fail("accept: %v", err)
	}
	first := make([]byte, 5)
	if _, err := io.ReadFull(stream, first); err != nil {
		fail("read: %v", err)
	}
	if _, err := stream.Write([]byte("go on")); err != nil {
		fail("write: %v", err)
	}
	if _, err := io.ReadAll(stream); !errors.Is(err, yamux.ErrConnectionReset) {
		fail("expected a reset, got %v", err)
	}
	echo(session, 1)
	report(map[string]any{"reset": string(first)})
}

// surplus opens more streams than the other side carries: those too many are reset, and the rest live.
func surplus(session *yamux.Session) {
	var streams []*yamux.Stream
	for i := 0; i < 8; i++ {
		stream, err := session.OpenStream()
		if err != nil {
			fail("open: %v", err)
		}
		streams = append(streams, stream)
	}
	if _, err := streams[0].Write([]byte("all open")); err != nil {
		fail("write: %v", err)
	}
	ended, refused := 0, 0
	for _, stream := range streams {
		switch _, err := io.ReadAll(stream); {
		case err == nil:
			ended++
		case errors.Is(err, yamux.ErrConnectionReset):
			refused++
		default:
			fail("read: %v", err)
		}
		stream.Close()
	}
	report(map[string]any{"ended": ended, "refused": refused})
}

// goAway says it will take no more streams, and serves the one it has.
func goAway(session *yamux.Session) {
	stream, err := session.AcceptStream()
	if err != nil {
		fail("accept: %v", err)
	}
	if err := session.GoAway(); err != nil {
		fail("go away: %v", err)
	}
	got, err := io.ReadAll(stream)
	if err != nil {
		fail("read: %v", err)
	}
	if _, err := stream.Write(got); err != nil {
		fail("write: %v", err)
	}
	stream.Close()
}

// heardGoAway waits for our go-away: no stream can be opened then.
func heardGoAway(session *yamux.Session) {
	stream, err := session.AcceptStream()
	if err != nil {
		fail("accept: %v", err)
	}
	if _, err := io.ReadAll(stream); err != nil {
		fail("read: %v", err)
	}
	if _, err := session.OpenStream(); !errors.Is(err, yamux.ErrRemoteGoAway) {
		fail("expected a remote go-away, got %v", err)
	}
	if _, err := stream.Write([]byte("still here")); err != nil {
		fail("write: %v", err)
	}
	stream.Close()
}

// ping measures round trips of its own, and answers the other side's.
func ping(session *yamux.Session) {
	for i := 0; i < 3; i++ {
		if _, err := session.Ping(); err != nil {
			fail("ping: %v", err)
		}
	}
	echo(session, 1)
}

// protocolError waits for the session to end because the other side broke the rules.
func protocolError(session *yamux.Session, log fmt.Stringer) {
	select {
	case <-session.CloseChan():
		report(map[string]any{"closed": log.String()})
	case <-time.After(10 * time.Second):
		fail("the session lives")
	}
}

func main() {
	if len(os.Args) != 3 {
		fail("usage: yamuxpeer server|client SCENARIO")
	}
	config := yamux.DefaultConfig()
	config.EnableKeepAlive = false
	var log bytes.Buffer
	config.LogOutput = &log
	if strings.HasSuffix(os.Args[2], "-window") {
		config.MaxStreamWindowSize = 1 << 20
	}
	open := yamux.Server
	if os.Args[1] == "client" {
		open = yamux.Client
	}
	session, err := open(pipe{os.Stdin, os.Stdout}, config)
	if err != nil {
		fail("%v", err)
	}
	switch os.Args[2] {
	case "echo", "echo-window":
		echo(session, 64)
	case "echo-many":
		echo(session, 1000)
	case "call", "call-window":
		callers(session, 64, 600_000)
	case "call-many":
		callers(session, 1000, 1500)
	case "slow":
		slow(session)
	case "half-close":
		halfClose(session)
	case "reset":
		reset(session)
	case "surplus":
		surplus(session)
	case "go-away":
		goAway(session)
	case "heard-go-away":
		heardGoAway(session)
	case "ping":
		ping(session)
	case "protocol-error":
		protocolError(session, &log)
	default:
		fail("no scenario %q", os.Args[2])
	}
	// Streams end before their last frames are written; the other side closes when it has seen them.
	select {
	case <-session.CloseChan():
	case <-time.After(10 * time.Second):
		fail("the other side does not close")
	}
	if strings.Contains(log.String(), "[ERR]") && os.Args[2] != "protocol-error" {
		fail("%s", log.String())
	}
}
