"""The drawing behind ``hourglass sample``.

``skeleton`` bends a body into a pose, ``figure`` gives it volume and clothes,
``scenery`` paints what stands around it, ``picture`` puts these together and
notes where every joint came to lie.
"""
