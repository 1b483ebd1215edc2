// SPDX-License-Identifier: Apache-2.0
#include "nbd/sockets.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

namespace ovs::nbd {

namespace {

constexpr int kBacklog = 128;
constexpr int kUnixBufferBytes = 4 << 20;

std::string Words(const char* what, int error) {
  return std::string(what) + ": " + strerror(error);
}

/** True when nobody accepts connections behind the socket file. */
bool IsStale(const sockaddr_un& address) {
  const int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (probe < 0) return false;
  const int result = connect(probe, reinterpret_cast<const sockaddr*>(&address), sizeof address);
  const bool refused = result < 0 && errno == ECONNREFUSED;
  close(probe);
  return refused;
}

int Fail(int fd, std::string* error, std::string words) {
  *error = std::move(words);
  if (fd >= 0) close(fd);
  return -1;
}

}  // namespace

int OpenUnix(const std::string& path, std::string* error) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return Fail(-1, error, "a socket path has 1 to 107 bytes: " + path);
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return Fail(fd, error, Words("socket", errno));
  // The file takes its mode from the socket: it is never open to others, not even for a moment.
  fchmod(fd, 0600);
  const auto* raw = reinterpret_cast<const sockaddr*>(&address);
  int result = bind(fd, raw, sizeof address);
  if (result < 0 && errno == EADDRINUSE) {
    struct stat found = {};
    const bool socket_file = lstat(path.c_str(), &found) == 0 && S_ISSOCK(found.st_mode);
    if (!socket_file) return Fail(fd, error, path + " exists and is not a socket");
    if (!IsStale(address)) return Fail(fd, error, path + " is in use by another process");
    unlink(path.c_str());
    result = bind(fd, raw, sizeof address);
  }
  if (result < 0) return Fail(fd, error, Words(("cannot listen on " + path).c_str(), errno));
  if (listen(fd, kBacklog) < 0) return Fail(fd, error, Words("listen", errno));
  return fd;
}

int OpenTcp(const std::string& host, uint16_t* port, std::string* error) {
  addrinfo hints = {};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* list = nullptr;
  const std::string service = std::to_string(*port);
  const char* node = host.empty() ? nullptr : host.c_str();
  const int code = getaddrinfo(node, service.c_str(), &hints, &list);
  if (code != 0) return Fail(-1, error, "cannot resolve " + host + ": " + gai_strerror(code));
  const int fd =
      socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, list->ai_protocol);
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  const bool bound = fd >= 0 && bind(fd, list->ai_addr, list->ai_addrlen) == 0;
  const bool listening = bound && listen(fd, kBacklog) == 0;
  const int failure = errno;
  freeaddrinfo(list);
  if (!listening) {
    const std::string what = "cannot listen on " + host + " port " + service;
    return Fail(fd, error, Words(what.c_str(), failure));
  }
  sockaddr_storage real = {};
  socklen_t length = sizeof real;
  getsockname(fd, reinterpret_cast<sockaddr*>(&real), &length);
  *port = ntohs(real.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&real)->sin6_port
                                           : reinterpret_cast<sockaddr_in*>(&real)->sin_port);
  return fd;
}

void Tune(int fd) {
  sockaddr_storage address = {};
  socklen_t length = sizeof address;
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length);
  if (address.ss_family == AF_UNIX) {
    // The sender's buffer bounds what is on its way: a batch of replies should fit.
    const int bytes = kUnixBufferBytes;
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) < 0) {
      setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    }
    return;
  }
  // TCP sizes its buffers itself.
  const int on = 1;
  const int idle_s = 60;
  const int interval_s = 15;
  const int count = 4;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
}

std::string PeerOf(int fd) {
  sockaddr_storage address = {};
  socklen_t length = sizeof address;
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&address), &length) < 0) return "unknown";
  if (address.ss_family == AF_UNIX) {
    ucred credentials = {};
    length = sizeof credentials;
    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length);
    return "unix:pid " + std::to_string(credentials.pid);
  }
  char host[NI_MAXHOST];
  char service[NI_MAXSERV];
  const int code = getnameinfo(reinterpret_cast<sockaddr*>(&address), length, host, sizeof host,
                               service, sizeof service, NI_NUMERICHOST | NI_NUMERICSERV);
  return code == 0 ? std::string("tcp:") + host + ":" + service : "unknown";
}

bool IsStreamSocket(int fd, bool* listening) {
  int type = 0;
  socklen_t length = sizeof type;
  if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) < 0 || type != SOCK_STREAM) return false;
  int accepting = 0;
  length = sizeof accepting;
  getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &accepting, &length);
  *listening = accepting != 0;
  return true;
}

void SetNonBlocking(int fd) {
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  fcntl(fd, F_SETFD, FD_CLOEXEC);
}

}  // namespace ovs::nbd
