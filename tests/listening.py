"""Which TCP sockets listen, by process, as the kernel says."""

import os


def listening(pid):
    """List the addresses at which a process listens.

    Args:
        pid (int): Of a process of this user.

    Returns:
        list[str]: Hexadecimal addresses without the port, as in /proc/net/tcp
        ('0100007F' is 127.0.0.1 on little-endian hosts) and tcp6.
    """
    sockets = set()
    for name in os.listdir(f'/proc/{pid}/fd'):
        try:
            target = os.readlink(f'/proc/{pid}/fd/{name}')
        except FileNotFoundError:  # of the listing itself
            continue
        if target.startswith('socket:['):
            sockets.add(target[len('socket:[') : -1])
    found = []
    for family in ('tcp', 'tcp6'):
        with open(f'/proc/{pid}/net/{family}') as table:
            rows = [line.split() for line in list(table)[1:]]
        # 0A is LISTEN; the tenth column is the socket.
        found += [
            row[1].partition(':')[0]
            for row in rows
            if row[3] == '0A' and row[9] in sockets
        ]
    return found
