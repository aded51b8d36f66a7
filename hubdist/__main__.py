"""`python -m hubdist`: the same as the command `hubdist`."""

from hubdist.cli.main import main

if __name__ == "__main__":
    main()
