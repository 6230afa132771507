"""Coverage-guided fuzzing: a target for each border that bytes of others cross.

A target is a module with ``seeds`` (a function that yields inputs to start from) and
``check`` (what must hold for any bytes). ``python -m tests.fuzz TARGET CORPUS`` runs one
for ever, with libFuzzer's options behind ``--``; the test runs each for a while.
"""
