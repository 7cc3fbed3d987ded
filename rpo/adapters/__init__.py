"""Other packages' environments as tasks here, and our tasks as environments there.

One file per package and direction; each imports its package only when it is imported itself, so
that `import rpo` needs none of them.
"""
