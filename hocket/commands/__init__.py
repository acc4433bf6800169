"""The commands of the ``hocket`` tool, one file each; ``hocket.cli`` puts them together."""
