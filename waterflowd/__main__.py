"""`python -m waterflowd`."""

from waterflowd.app.cli import main

if __name__ == "__main__":
    main(prog_name="waterflowd")
