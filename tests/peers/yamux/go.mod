module cloudtaser.invalid/yamuxpeer

go 1.19

require github.com/hashicorp/yamux v0.1.1
