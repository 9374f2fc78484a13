"""`python -m terramorph`: the program, where its script is not on the PATH."""

from terramorph.cli.app import main

if __name__ == "__main__":
    main()
