// SPDX-License-Identifier: Apache-2.0
// Accepts and negotiates NBD connections on a libuv loop, then gives the sockets away. Owns the
// listening sockets and every connection that still negotiates: at most kNegotiatingMax, each for
// a limited time; when one more comes, the oldest has to go.
#pragma once
#include <uv.h>

#include <functional>
#include <list>
#include <string>
#include <vector>

#include "nbd/core/negotiation.h"

namespace ovs::nbd {

constexpr uint32_t kNegotiatingMax = 64;

/** What was agreed on. Gives `fd`. */
struct Agreement {
  int fd;
  std::string name;
  Mode mode;
  bool allocation;
  std::string unread;
  std::string peer;
};

class ListenerEvents {
 public:
  virtual ~ListenerEvents() = default;
  virtual void OnNegotiated(Agreement agreement) = 0;
  /** A connection ended before it agreed on an export; `reason` is empty for a polite end. */
  virtual void OnRefused(const std::string& peer, const std::string& reason) = 0;
};

class Listener {
 public:
  Listener(uv_loop_t* loop, uint32_t request_bytes_max, uint32_t negotiation_ms,
           ListenerEvents* events);
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  std::vector<Export>& exports() { return exports_.list; }

  // Each answers an empty string, or what went wrong.
  /** Mode 0600. A socket file that nobody serves is replaced; Close() removes ours. */
  std::string ListenUnix(const std::string& path);
  /** `port` 0 chooses one; the real one is stored back. */
  std::string ListenTcp(const std::string& host, uint16_t* port);
  /** A listening socket that somebody else has opened. */
  std::string ListenFd(int fd);
  /** A connected socket: negotiates on it. */
  std::string Converse(int fd);

  /** Ends listening and negotiating; `closed` runs when the loop holds nothing of this object. */
  void Close(std::function<void()> closed);

 private:
  struct Socket;
  struct Talk;

  ~Listener() = default;
  void Watch(int fd, const std::string& path);
  void Accept(Socket* socket);
  void StartTimer();
  static void OnSocket(uv_poll_t* poll, int status, int events);
  void Begin(int fd, std::string peer);
  void Step(Talk* talk);
  bool Send(Talk* talk);
  bool Receive(Talk* talk);
  void Agree(Talk* talk);
  void Refuse(Talk* talk, const std::string& reason);
  void Release(Talk* talk);
  static void OnTalk(uv_poll_t* poll, int status, int events);
  static void OnTimer(uv_timer_t* timer);
  void HandleClosed();

  uv_loop_t* loop_;
  Exports exports_;
  uint32_t negotiation_ms_;
  ListenerEvents* events_;
  uv_timer_t timer_;
  bool timing_ = false;
  uint32_t handles_ = 1;
  std::list<Socket*> sockets_;
  std::list<Talk*> talks_;  // Oldest first.
  std::function<void()> closed_;
};

}  // namespace ovs::nbd
