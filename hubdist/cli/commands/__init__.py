"""One module for each command of `hubdist`; `hubdist.cli.main` lists them."""
