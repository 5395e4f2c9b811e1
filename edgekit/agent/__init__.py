"""The code that runs where the model runs: on this machine, over ssh, on a board.

Imports the standard library, numpy and ONE runtime, and nothing else of edgekit, so that this
folder can be copied to a device as it is. `js/` is its twin for Node.js and browsers.
"""
