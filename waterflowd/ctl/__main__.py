"""`python -m waterflowd.ctl` is `waterflowctl`."""

from waterflowd.ctl.main import main

main()
