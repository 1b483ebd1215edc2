// SPDX-License-Identifier: Apache-2.0
#include "transport/core/outbox.h"

#include <algorithm>

#include "common/check.h"

namespace ovs::transport {

void Outbox::Push(const wire::FrameHeader& header, const uint8_t* meta, const Piece* payload,
                  size_t pieces, uint32_t token) {
  heads_.append(reinterpret_cast<const uint8_t*>(&header), kHeaderBytes);
  heads_.append(meta, header.meta_bytes);
  spans_.push({nullptr, kHeaderBytes + header.meta_bytes});
  for (size_t i = 0; i < pieces; i++) spans_.push({payload[i].data, payload[i].bytes});
  bytes_ += header.length;
  pushed_ += header.length;
  if (token != 0) marks_.push({pushed_, token});
}

int Outbox::Gather(iovec* places, int max) const {
  int count = 0;
  size_t head = 0;
  bool last_was_head = false;
  for (size_t i = 0; i < spans_.size(); i++) {
    const Span& span = spans_[i];
    const bool is_head = span.data == nullptr;
    if (is_head && last_was_head) {
      places[count - 1].iov_len += span.bytes;  // Heads lie one after the other.
    } else {
      if (count == max) break;
      const uint8_t* from = is_head ? heads_.data() + head : span.data;
      places[count++] = {const_cast<uint8_t*>(from), span.bytes};
    }
    if (is_head) head += span.bytes;
    last_was_head = is_head;
  }
  return count;
}

void Outbox::Taken(size_t bytes, std::vector<uint32_t>& sent) {
  OVS_CHECK(bytes <= bytes_);
  bytes_ -= bytes;
  taken_ += bytes;
  while (bytes > 0) {
    Span& span = spans_.front();
    const size_t count = std::min(span.bytes, bytes);
    if (span.data == nullptr) {
      heads_.pop(count);
    } else {
      span.data += count;
    }
    span.bytes -= count;
    bytes -= count;
    if (span.bytes == 0) spans_.pop(1);
  }
  while (!marks_.empty() && marks_.front().end <= taken_) {
    sent.push_back(marks_.front().token);
    marks_.pop(1);
  }
}

void Outbox::Drop(std::vector<uint32_t>& sent) {
  for (; !marks_.empty(); marks_.pop(1)) sent.push_back(marks_.front().token);
  heads_.pop(heads_.size());
  spans_.pop(spans_.size());
  bytes_ = 0;
}

}  // namespace ovs::transport
