// SPDX-License-Identifier: Apache-2.0
// Making sockets: all are non-blocking and closed on exec. Functions return a descriptor or -errno.
#pragma once
#include <cstdint>
#include <string>

namespace ovs::transport {

/// Listens on a socket file, 0600; replaces one that nobody listens on, -EADDRINUSE for a live one.
int ListenUnixSocket(const std::string& path);
/// `ip` is numeric, v4 or v6; port 0: the system chooses.
int ListenTcpSocket(const std::string& ip, uint16_t port);
int BoundPort(int fd);

/// `result`: 0 when it is connected at once, else EINPROGRESS.
int ConnectUnixSocket(const std::string& path, int& result);
int ConnectTcpSocket(const std::string& ip, uint16_t port, int& result);

/// Options of a connected socket of either kind.
void TuneSocket(int fd);

/// `tcp:ip:port` of the other side; "" for unix sockets.
std::string PeerAddress(int fd);

}  // namespace ovs::transport
