"""`python -m cloudtaser.demo`: what `make demo` and `cloudtaser-cli demo` start."""

import sys

from cloudtaser.demo.app import main

if __name__ == "__main__":
    sys.exit(main())
