// SPDX-License-Identifier: Apache-2.0
// The connections of one thread on its libuv loop. Owns their sockets from Adopt() on.
//
// In one turn of the loop:  poll callbacks receive and parse ──► check callback hands all ready
// slots to the target in one call ──► Flush() sends the replies, one writev a connection.
// What becomes ready at another time (slots freed by a send) makes the loop go round at once.
//
// Close() ends everything; the object deletes itself when its handles are closed, and from then
// on neither calls its events nor touches the shared arrays.
#pragma once
#include <uv.h>

#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "nbd/core/engine.h"
#include "nbd/core/session.h"

namespace ovs::nbd {

class ServerEvents {
 public:
  virtual ~ServerEvents() = default;
  /** `count` slots in arrays.ready belong to the target now. */
  virtual void OnReady(uint32_t count) = 0;
  /** A connection is gone; its slots come back as the target completes them. */
  virtual void OnClosed(uint32_t connection, uint32_t target, const std::string& reason) = 0;
};

struct ServerLimits {
  uint32_t connections;
  uint32_t stall_ms;  // A connection that holds slots and does not move while others wait ends.
};

class Server {
 public:
  Server(uv_loop_t* loop, std::unique_ptr<Engine> engine, ServerLimits limits,
         ServerEvents* events);
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  Engine& engine() { return *engine_; }
  size_t connections() const { return connections_.size(); }
  size_t ConnectionsOf(uint32_t target) const;

  /** Takes a negotiated socket. Returns the connection's number, 0 when there are too many. */
  uint32_t Adopt(int fd, uint32_t target, Mode mode, bool allocation, const uint8_t* unread,
                 size_t unread_bytes);
  /** Carries out `count` results and sends what can be sent. */
  void Flush(uint32_t count);
  /** Connections of a target read no more, answer what is in flight, and close. */
  void Drain(uint32_t target);
  /** Ends the connections of a target now. */
  void Destroy(uint32_t target, const char* reason);
  /** Ends all; `closed` runs when the loop holds nothing of this object any more. */
  void Close(std::function<void()> closed);

 private:
  struct Connection;

  ~Server() = default;
  static void OnPoll(uv_poll_t* poll, int status, int events);
  static void OnCheck(uv_check_t* check);
  static void OnTimer(uv_timer_t* timer);
  void Receive(Connection* connection);
  void Send(Connection* connection);
  void Service(Connection* connection);
  void Settle();
  void Schedule();
  void CloseConnection(Connection* connection);
  void HandleClosed();

  struct ClosedEvent {
    uint32_t connection;
    uint32_t target;
    std::string reason;
  };

  uv_loop_t* loop_;
  std::unique_ptr<Engine> engine_;
  ServerLimits limits_;
  ServerEvents* events_;
  uv_check_t check_;
  uv_idle_t idle_;
  uv_timer_t timer_;
  uint32_t handles_ = 3;  // Not yet closed.
  uint32_t next_connection_ = 1;
  bool scheduled_ = false;
  bool timing_ = false;
  std::unordered_map<uint32_t, Connection*> connections_;
  std::vector<ClosedEvent> closed_events_;
  std::function<void()> closed_;
};

}  // namespace ovs::nbd
