# SPDX-License-Identifier: Apache-2.0
# Attaches an NBD export as /dev/nbdN by the kernel's netlink interface with a dead-connection
# timeout, which nbd-client cannot set, and stays to connect again whenever the kernel says that the
# connection is dead. Requests in flight then wait for the new connection instead of failing.
#
#   netlink.py /dev/nbdN HOST PORT EXPORT DEAD_SECONDS      ends when the device is disconnected
#
# Only Python's own library. Names and numbers are those of linux/nbd-netlink.h and NBD's proto.md.

import os
import socket
import struct
import sys
import time

NLM_F_REQUEST_ACK = 5
NLMSG_ERROR = 2
GENL_ID_CTRL = 0x10
CTRL_CMD_GETFAMILY = 3
CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME, CTRL_ATTR_MCAST_GROUPS = 1, 2, 7
NETLINK_GENERIC = 16
SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
NBD_CMD_CONNECT, NBD_CMD_RECONFIGURE, NBD_CMD_LINK_DEAD = 1, 3, 4
INDEX, SIZE_BYTES, BLOCK_BYTES, TIMEOUT, SERVER_FLAGS = 1, 2, 3, 4, 5
SOCKETS, DEAD_CONN_TIMEOUT = 7, 8
NESTED = 0x8000
BLOCK = 4096
# A request without a reply is sent again after this, when there is a new connection.
RESEND_SECONDS = 5
IHAVEOPT = 0x49484156454F5054
OPT_GO = 7
REP_ACK, REP_INFO = 1, 3
HANDSHAKE_SECONDS = 5


def receive(link, count):
    data = b""
    while len(data) < count:
        part = link.recv(count - len(data))
        if not part:
            raise EOFError("the server closed the connection")
        data += part
    return data


def negotiate(host, port, export):
    """A connection in the transmission phase: (socket, size in bytes, flags)."""
    link = socket.create_connection((host, port), timeout=HANDSHAKE_SECONDS)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    magic, option, flags = struct.unpack(">8sQH", receive(link, 18))
    if magic != b"NBDMAGIC" or option != IHAVEOPT:
        raise OSError("this is no NBD server of the newstyle")
    name = export.encode()
    body = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
    link.sendall(struct.pack(">IQII", flags & 3, IHAVEOPT, OPT_GO, len(body)) + body)
    size = None
    while True:
        _, _, kind, length = struct.unpack(">QIII", receive(link, 20))
        data = receive(link, length)
        if kind == REP_ACK and size is not None:
            link.settimeout(None)
            return link, size, flags
        if kind == REP_INFO and data[:2] == b"\0\0":
            size, flags = struct.unpack(">QH", data[2:12])
        elif kind & 0x80000000:
            raise OSError("the server refused: %r" % data)


def attribute(kind, value):
    data = struct.pack("=HH", len(value) + 4, kind) + value
    return data + bytes(-len(data) % 4)


def attributes(data):
    while len(data) >= 4:
        length, kind = struct.unpack("=HH", data[:4])
        yield kind & 0x3FFF, data[4:length]
        data = data[(length + 3) & ~3 :]


def u32(value):
    return struct.pack("=I", value)


def u64(value):
    return struct.pack("=Q", value)


def one_socket(link):
    return attribute(SOCKETS | NESTED, attribute(1 | NESTED, attribute(1, u32(link.fileno()))))


class Netlink:
    """Calls to the kernel's generic netlink; finds the family `nbd` and its group of events."""

    def __init__(self):
        self.link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
        self.link.bind((0, 0))
        self.sequence = 0
        name = attribute(CTRL_ATTR_FAMILY_NAME, b"nbd\0")
        family = dict(attributes(self.call(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, name)[20:]))
        self.family = struct.unpack("=H", family[CTRL_ATTR_FAMILY_ID][:2])[0]
        _, group = next(attributes(family[CTRL_ATTR_MCAST_GROUPS]))
        self.group = struct.unpack("=I", dict(attributes(group))[2])[0]

    def call(self, family, command, body):
        """Sends one request and waits for the kernel's word; gives the message before it."""
        self.sequence += 1
        data = struct.pack("=BBH", command, 1, 0) + body
        head = struct.pack("=IHHII", 16 + len(data), family, NLM_F_REQUEST_ACK, self.sequence, 0)
        self.link.send(head + data)
        answer = b""
        while True:
            message = self.link.recv(65536)
            while message:
                length, kind = struct.unpack("=IH", message[:6])
                if kind == NLMSG_ERROR:
                    error = -struct.unpack("=i", message[16:20])[0]
                    if error:
                        raise OSError(error, os.strerror(error))
                    return answer
                answer = message[:length]
                message = message[(length + 3) & ~3 :]

    def events(self):
        """A socket on which the kernel tells of dead connections."""
        link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
        link.bind((0, 0))
        link.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, self.group)
        return link


def reconnect(netlink, index, target, size):
    """Hands the kernel a new connection; gives False when the device is no longer attached."""
    while os.path.exists("/sys/block/nbd%d/pid" % index):
        try:
            link, size_now, _ = negotiate(*target)
            if size_now != size:
                raise OSError("the export has another size now")
            netlink.call(
                netlink.family, NBD_CMD_RECONFIGURE, attribute(INDEX, u32(index)) + one_socket(link)
            )
            link.close()
            return True
        except (OSError, EOFError):
            time.sleep(0.1)
    return False


def main():
    device, host, port, export, dead_seconds = sys.argv[1:]
    index = int(device.removeprefix("/dev/nbd"))
    target = (host, int(port), export)
    netlink = Netlink()
    events = netlink.events()
    link, size, flags = negotiate(*target)
    wanted = [(INDEX, u32(index)), (SIZE_BYTES, u64(size)), (BLOCK_BYTES, u64(BLOCK))]
    wanted += [(TIMEOUT, u64(RESEND_SECONDS)), (SERVER_FLAGS, u64(flags))]
    wanted += [(DEAD_CONN_TIMEOUT, u64(int(dead_seconds)))]
    body = b"".join(attribute(*each) for each in wanted) + one_socket(link)
    netlink.call(netlink.family, NBD_CMD_CONNECT, body)
    link.close()
    print("attached", flush=True)
    while True:
        event = events.recv(65536)
        if event[16] != NBD_CMD_LINK_DEAD:
            continue
        if struct.unpack("=I", dict(attributes(event[20:]))[INDEX])[0] != index:
            continue
        if not reconnect(netlink, index, target, size):
            return
        print("connected again", flush=True)


main()
