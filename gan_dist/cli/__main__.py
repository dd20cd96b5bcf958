"""`python -m gan_dist.cli COMMAND ...`: the same as `gan-dist COMMAND ...`."""

import sys

from gan_dist.cli import main

if __name__ == "__main__":
    sys.exit(main())
