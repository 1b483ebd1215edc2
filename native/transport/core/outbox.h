// SPDX-License-Identifier: Apache-2.0
// One connection's outgoing bytes, in order: heads (header and meta, copied here) and borrowed
// pieces of payload, with marks where a frame ends whose sender wants to know.
#pragma once
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "transport/core/frame.h"

namespace ovs::transport {

/// A queue in one block of memory: cheap for bursts that are emptied soon.
template <typename T>
class Fifo {
 public:
  bool empty() const { return first_ == items_.size(); }
  size_t size() const { return items_.size() - first_; }
  T& front() { return items_[first_]; }
  const T& operator[](size_t i) const { return items_[first_ + i]; }
  const T* data() const { return items_.data() + first_; }
  void push(const T& item) { items_.push_back(item); }
  void append(const T* items, size_t count) { items_.insert(items_.end(), items, items + count); }
  void pop(size_t count) {
    first_ += count;
    if (first_ == items_.size()) {
      items_.clear();
      first_ = 0;
    } else if (first_ >= kCompactMin && 2 * first_ >= items_.size()) {
      items_.erase(items_.begin(), items_.begin() + static_cast<std::ptrdiff_t>(first_));
      first_ = 0;
    }
  }

 private:
  static constexpr size_t kCompactMin = 1024;
  std::vector<T> items_;
  size_t first_ = 0;
};

class Outbox {
 public:
  bool empty() const { return spans_.empty(); }
  size_t bytes() const { return bytes_; }

  /// Queues a frame. `token` 0: nobody wants to know when it is sent.
  void Push(const wire::FrameHeader& header, const uint8_t* meta, const Piece* payload,
            size_t pieces, uint32_t token);

  /// Up to `max` places of the bytes to send next.
  int Gather(iovec* places, int max) const;

  /// Counts bytes that the kernel took; adds the tokens of frames that are sent to `sent`.
  void Taken(size_t bytes, std::vector<uint32_t>& sent);

  /// Gives all up; adds all tokens to `sent`.
  void Drop(std::vector<uint32_t>& sent);

 private:
  struct Span {
    const uint8_t* data;  // Null: the next bytes of heads_.
    size_t bytes;
  };
  struct Mark {
    uint64_t end;  // In bytes since the connection began.
    uint32_t token;
  };

  Fifo<uint8_t> heads_;
  Fifo<Span> spans_;
  Fifo<Mark> marks_;
  size_t bytes_ = 0;
  uint64_t pushed_ = 0;
  uint64_t taken_ = 0;
};

}  // namespace ovs::transport
