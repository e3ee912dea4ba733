"""`python -m cloudtaser.demo`: what `make demo` and `cloudtaser-cli demo` start."""

import signal
import sys

# a Ctrl-C while Python still imports ends it at once, without a traceback: nothing has been started yet
signal.signal(signal.SIGINT, signal.SIG_DFL)

if __name__ == "__main__":
    from cloudtaser.demo.app import main

    sys.exit(main())
