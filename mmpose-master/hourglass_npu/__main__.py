"""``python -m hourglass_npu``: the same as the command ``hourglass``."""

from hourglass_npu.cli import main

if __name__ == '__main__':
    main()
