"""``python -m stitchsafe`` is the command ``stitchsafe``."""

from stitchsafe.cli import main

if __name__ == "__main__":
    main()
