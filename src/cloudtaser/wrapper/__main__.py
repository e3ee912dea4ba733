"""`python -m cloudtaser.wrapper`, and the file that the payload starts."""

from cloudtaser.wrapper.app import main

main()
