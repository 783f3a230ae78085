"""What an installed package asks for on this machine, a line each: requirements_of.py PACKAGE [LEFT_OUT ...]"""
import importlib.metadata
import sys

from packaging.requirements import Requirement

for text in importlib.metadata.requires(sys.argv[1]):
    wanted = Requirement(text)
    if wanted.name not in sys.argv[2:] and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
        wanted.marker = None
        print(wanted)
