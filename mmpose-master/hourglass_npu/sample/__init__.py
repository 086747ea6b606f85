"""The drawing behind ``hourglass sample``.

``skeleton`` bends a body into a pose, ``figure`` adds volume and clothes on a
``canvas``, ``places`` and ``scenery`` paint the surroundings with ``paint``,
``picture`` combines them and notes the place of every joint, ``dataset``
writes the files.
"""
