// SPDX-License-Identifier: Apache-2.0
// Opening and tuning of NBD's sockets. Errors are answered in words.
#pragma once
#include <cstdint>
#include <string>

namespace ovs::nbd {

/** A listening descriptor, or -1 and `error` in words. All are non-blocking and close-on-exec. */
int OpenUnix(const std::string& path, std::string* error);
int OpenTcp(const std::string& host, uint16_t* port, std::string* error);

/** Prepares a connected socket for a session: buffers, no delay, keep-alive. */
void Tune(int fd);
/** The other end in words: `tcp:1.2.3.4:5` or `unix:pid 17`. */
std::string PeerOf(int fd);
/** True for a stream socket; `listening` tells which kind. */
bool IsStreamSocket(int fd, bool* listening);
void SetNonBlocking(int fd);

}  // namespace ovs::nbd
