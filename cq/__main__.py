"""`python -m cq` is `cq`."""

from cq.cli.run import main

if __name__ == "__main__":
    main()
