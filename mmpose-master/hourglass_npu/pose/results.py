"""People and their joints as plain values, for JSON and for programs."""


def describe_people(people, keypoints=None, names=()):
    """Turn the people of a picture into plain values.

    Args:
        people (Sequence[Person]): See boxes.py.
        keypoints (np.ndarray[N, K, 3] | None): x, y (picture) and score of
            their joints; None leaves them out.
        names (Sequence[str]): Of the K joints.

    Returns:
        list[dict]: For each person ``number`` (from 1, as it is drawn),
        ``bbox`` (x, y, width, height in pixels of the picture), ``score``
        (of the box), and ``keypoints``: a list of ``name``, ``x``, ``y``,
        ``score``.
    """
    found = [
        {
            'number': number,
            'bbox': [round(float(v), 2) for v in person.box],
            'score': round(float(person.score), 4),
        }
        for number, person in enumerate(people, 1)
    ]
    if keypoints is None:
        return found
    for entry, joints in zip(found, keypoints):
        entry['keypoints'] = [
            {
                'name': name,
                'x': round(float(x), 2),
                'y': round(float(y), 2),
                'score': round(float(score), 4),
            }
            for name, (x, y, score) in zip(names, joints)
        ]
    return found
