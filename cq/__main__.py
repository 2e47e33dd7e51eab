"""`python -m cq` is `cq`."""

import sys

from cq.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
