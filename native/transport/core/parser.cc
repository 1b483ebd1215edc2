// SPDX-License-Identifier: Apache-2.0
#include "transport/core/parser.h"

#include <algorithm>
#include <cstring>

#include "common/check.h"
#include "common/crc32c.h"

namespace ovs::transport {

Parser::Stop Parser::Break(Fault fault) {
  state_ = State::Broken;
  fault_ = fault;
  return Stop::Broken;
}

Parser::Stop Parser::Consume(const uint8_t* data, size_t bytes, size_t& taken) {
  static constexpr uint8_t kNothing = 0;  // memcpy takes no null, not even for no bytes.
  if (bytes == 0) data = &kNothing;
  const uint8_t* at = data;
  const uint8_t* const end = data + bytes;
  Stop stop = Stop::Hungry;
  bool runs = true;
  while (runs) {
    switch (state_) {
      case State::Head:
        runs = TakeHead(at, end);
        break;
      case State::Meta:
        runs = TakeMeta(at, end);
        break;
      case State::Place: {
        pieces_.clear();
        const Placed placed = host_.Place(header_, pieces_, pool_offset_);
        if (placed == Placed::Yes) {
          state_ = State::Payload;
          piece_ = piece_done_ = 0;
          left_ = header_.payload_bytes;
          crc_ = 0;
          break;
        }
        runs = false;
        if (placed == Placed::NoRoom) stop = Stop::NoRoom;
        if (placed == Placed::LongerThanExpected) Break(Fault::LongerThanExpected);
        if (placed == Placed::LongerThanPool) Break(Fault::LongerThanPool);
        break;
      }
      case State::Payload:
        runs = TakePayload(at, end);
        break;
      case State::Deliver:
        runs = host_.Deliver({&header_, meta_, pool_offset_});
        if (!runs) {
          stop = Stop::Full;
          break;
        }
        state_ = State::Head;
        have_ = 0;
        pool_offset_ = 0;
        break;
      case State::Broken:
        runs = false;
        break;
    }
  }
  if (state_ == State::Broken) return Stop::Broken;
  // What is kept between calls must not lie in the caller's buffer.
  const bool holds_meta = state_ != State::Head && state_ != State::Meta && header_.meta_bytes > 0;
  if (holds_meta && meta_ != meta_copy_.data()) {
    meta_copy_.assign(meta_, meta_ + header_.meta_bytes);
    meta_ = meta_copy_.data();
  }
  taken = static_cast<size_t>(at - data);
  return stop;
}

bool Parser::TakeHead(const uint8_t*& at, const uint8_t* end) {
  const size_t count = std::min(kHeaderBytes - have_, static_cast<size_t>(end - at));
  std::memcpy(reinterpret_cast<uint8_t*>(&header_) + have_, at, count);
  at += count;
  have_ += count;
  if (have_ < kHeaderBytes) return false;
  const Fault fault = CheckHeader(header_);
  if (fault != Fault::None) {
    Break(fault);
    return false;
  }
  have_ = 0;
  meta_ = nullptr;
  left_ = 0;
  crc_ = 0;
  state_ = State::Meta;
  return true;
}

bool Parser::TakeMeta(const uint8_t*& at, const uint8_t* end) {
  const size_t want = header_.meta_bytes;
  const size_t here = static_cast<size_t>(end - at);
  if (have_ == 0 && here >= want) {
    meta_ = at;
    at += want;
  } else {
    if (have_ == 0) meta_copy_.resize(want);
    const size_t count = std::min(want - have_, here);
    std::memcpy(meta_copy_.data() + have_, at, count);
    at += count;
    have_ += count;
    if (have_ < want) return false;
    meta_ = meta_copy_.data();
  }
  if (Crc32c(meta_, want, 0) != header_.meta_crc) {
    Break(Fault::MetaCrc);
    return false;
  }
  have_ = 0;
  state_ = State::Place;
  return header_.payload_bytes > 0 || BodyDone();
}

bool Parser::TakePayload(const uint8_t*& at, const uint8_t* end) {
  while (left_ > 0 && at < end) {
    const Piece& piece = pieces_[piece_];
    const size_t count =
        std::min({piece.bytes - piece_done_, left_, static_cast<size_t>(end - at)});
    std::memcpy(piece.data + piece_done_, at, count);
    at += count;
    Advance(count);
  }
  return left_ == 0 && BodyDone();
}

/// Counts bytes that lie in the current piece now.
void Parser::Advance(size_t bytes) {
  const Piece& piece = pieces_[piece_];
  crc_ = Crc32c(piece.data + piece_done_, bytes, crc_);
  piece_done_ += bytes;
  left_ -= bytes;
  if (piece_done_ < piece.bytes) return;
  piece_++;
  piece_done_ = 0;
}

bool Parser::BodyDone() {
  if (crc_ != header_.body_crc) {
    Break(Fault::PayloadCrc);
    return false;
  }
  state_ = State::Deliver;
  return true;
}

int Parser::Direct(iovec* places, int max) const {
  if (state_ != State::Payload) return 0;
  int count = 0;
  size_t left = left_;
  size_t skip = piece_done_;
  for (size_t i = piece_; left > 0 && count < max; i++) {
    const size_t bytes = std::min(pieces_[i].bytes - skip, left);
    places[count++] = {pieces_[i].data + skip, bytes};
    left -= bytes;
    skip = 0;
  }
  return count;
}

void Parser::DirectDone(size_t bytes) {
  OVS_CHECK(state_ == State::Payload && bytes <= left_);
  while (bytes > 0) {
    const size_t count = std::min(pieces_[piece_].bytes - piece_done_, bytes);
    Advance(count);
    bytes -= count;
  }
}

bool Parser::IsFilling(uint64_t id) const {
  return state_ == State::Payload && pool_offset_ == 0 && header_.request_id == id &&
         header_.kind == static_cast<uint8_t>(wire::FrameKind::Response);
}

}  // namespace ovs::transport
