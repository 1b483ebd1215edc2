// SPDX-License-Identifier: Apache-2.0
// The input side of a session: headers, judgement, slots, payload. The output side: reply.cc.
#include "nbd/core/session.h"

#include <algorithm>
#include <cstring>

#include "common/check.h"

namespace ovs::nbd {

namespace {

// A connection whose last write was at least this large is read a header at a time, so that the
// next payload can be received into its slots; below it, copying is cheaper than system calls.
constexpr uint64_t kDirectBytes = 32 << 10;
constexpr uint64_t kPayloadBytesMax = uint64_t{4} << 30;

}  // namespace

Session::Session(Engine& engine, uint32_t connection, uint32_t target, Mode mode, bool allocation)
    : engine_(engine),
      connection_(connection),
      target_(target),
      mode_(mode),
      allocation_(allocation) {}

Session::~Session() {
  if (state_ != State::Ended) End(nullptr);
  if (dirty) std::erase(engine_.dirty(), this);
}

bool Session::wants_input() const {
  return state_ == State::Header || state_ == State::Payload || state_ == State::Discard;
}

bool Session::finished() const {
  return state_ == State::Ended || (state_ == State::Draining && in_flight_ == 0);
}

uint32_t Session::InputVectors(iovec* vectors, uint32_t max) {
  OVS_CHECK(max >= 2);
  OVS_CHECK(wants_input());
  uint8_t* staging = engine_.staging();
  if (state_ == State::Discard) {
    vectors[0] = {staging, static_cast<size_t>(std::min<uint64_t>(payload_left_, kStagingBytes))};
    return 1;
  }
  uint32_t count = 0;
  direct_bytes_ = 0;
  if (state_ == State::Payload) {
    uint32_t filled = part_filled_;
    for (uint32_t part = part_; part != kNone && count < max - 1; filled = 0) {
      Slot& slot = engine_.slot(part);
      vectors[count++] = {engine_.SlotMemory(part) + slot.shift + filled, slot.bytes - filled};
      direct_bytes_ += slot.bytes - filled;
      part = slot.next;
    }
    if (direct_bytes_ < payload_left_) return count;
  }
  OVS_CHECK(state_ != State::Payload || partial_bytes_ == 0);
  const bool sparing = last_payload_ >= kDirectBytes || engine_.waiting() > 0;
  std::memcpy(staging, partial_, partial_bytes_);
  const size_t room = (sparing ? header_bytes() : kStagingBytes) - partial_bytes_;
  vectors[count++] = {staging + partial_bytes_, room};
  return count;
}

void Session::Received(size_t bytes) {
  OVS_CHECK(bytes > 0);
  engine_.counters().bytes_in += bytes;
  progress++;
  if (state_ == State::Payload) {
    const size_t direct = std::min<uint64_t>(bytes, direct_bytes_);
    PayloadArrived(direct);
    bytes -= direct;
    if (bytes > 0) Parse(engine_.staging(), bytes);
    return;
  }
  const size_t before = partial_bytes_;
  partial_bytes_ = 0;
  Parse(engine_.staging(), before + bytes);
}

void Session::Preload(const uint8_t* bytes, size_t count) {
  OVS_CHECK(state_ == State::Header && partial_bytes_ == 0);
  if (count > 0) Parse(bytes, count);
}

void Session::Parse(const uint8_t* bytes, size_t count) {
  while (count > 0) {
    size_t used = 0;
    switch (state_) {
      case State::Header:
        used = ParseHeader(bytes, count);
        break;
      case State::Payload:
        used = ParsePayload(bytes, count);
        break;
      case State::Discard:
        used = std::min<uint64_t>(count, payload_left_);
        payload_left_ -= used;
        if (payload_left_ == 0) FinishDiscard();
        break;
      case State::Waiting:
        Keep(bytes, count);
        return;
      case State::Draining:
      case State::Ended:
        return;
    }
    OVS_CHECK(used <= count);
    bytes += used;
    count -= used;
  }
}

size_t Session::ParseHeader(const uint8_t* bytes, size_t count) {
  const uint32_t need = header_bytes();
  if (count < need) {
    std::memcpy(partial_, bytes, count);
    partial_bytes_ = static_cast<uint32_t>(count);
    return count;
  }
  if (!ReadRequest(bytes)) return count;
  const bool payload = request_.type == kCmdRead || request_.type == kCmdWrite;
  const bool parts = payload && request_.error == kOk;
  need_ = parts ? Engine::PartsOf(request_.offset, request_.bytes) : 1;
  if (engine_.Admit(this, need_)) {
    Begin();
  } else {
    state_ = State::Waiting;
  }
  return need;
}

/** Decodes and judges a header; false when there is no request to answer (the session goes on to
 * end). */
bool Session::ReadRequest(const uint8_t* header) {
  const bool extended = mode_ == Mode::Extended;
  if (LoadBe32(header) != (extended ? kExtendedRequestMagic : kRequestMagic)) {
    End("a request with a wrong magic number");
    return false;
  }
  request_.flags = LoadBe16(header + 4);
  request_.type = LoadBe16(header + 6);
  std::memcpy(&request_.cookie, header + 8, 8);
  request_.offset = LoadBe64(header + 16);
  request_.bytes = extended ? LoadBe64(header + 24) : LoadBe32(header + 24);
  if (request_.type == kCmdDisconnect) {
    Drain();
    return false;
  }
  const bool carries =
      request_.type == kCmdWrite || (extended && (request_.flags & kCmdFlagPayloadLen) != 0);
  request_.payload_bytes = carries ? request_.bytes : 0;
  if (request_.payload_bytes > kPayloadBytesMax) {
    End("a request with more than 4 GiB of payload");
    return false;
  }
  request_.error = Judge(engine_.FindTarget(target_));
  return true;
}

/** The Errno that the request deserves before anybody has looked at its payload. */
uint32_t Session::Judge(const Target* target) const {
  const Request& r = request_;
  if (target == nullptr || !target->alive) return kEshutdown;
  const uint32_t wrong = JudgeFlags();
  if (wrong != kOk) return wrong;
  const bool writes = r.type == kCmdWrite || r.type == kCmdTrim || r.type == kCmdWriteZeroes;
  if (writes && target->read_only) return kEperm;
  if (r.type == kCmdFlush) return r.offset == 0 && r.bytes == 0 ? kOk : kEinval;
  if (r.type == kCmdBlockStatus && (!allocation_ || r.bytes == 0)) return kEinval;
  if (r.offset > target->size_bytes || r.bytes > target->size_bytes - r.offset) {
    return r.type == kCmdWrite || r.type == kCmdWriteZeroes ? kEnospc : kEinval;
  }
  const bool moves = r.type == kCmdRead || r.type == kCmdWrite;
  if (moves && r.bytes > engine_.request_bytes_max()) {
    return r.flags & kCmdFlagDf ? kEoverflow : kEinval;
  }
  return kOk;
}

uint32_t Session::JudgeFlags() const {
  uint16_t allowed = kCmdFlagFua;
  switch (request_.type) {
    case kCmdRead:
      if (mode_ != Mode::Simple) allowed |= kCmdFlagDf;
      break;
    case kCmdWrite:
      if (mode_ == Mode::Extended) allowed |= kCmdFlagPayloadLen;
      break;
    case kCmdWriteZeroes:
      allowed |= kCmdFlagNoHole | kCmdFlagFastZero;
      break;
    case kCmdBlockStatus:
      allowed |= kCmdFlagReqOne;
      break;
    case kCmdFlush:
    case kCmdTrim:
    case kCmdCache:
      break;
    default:
      return kEinval;
  }
  return request_.flags & ~allowed ? kEinval : kOk;
}

void Session::Resume() {
  OVS_CHECK(state_ == State::Waiting);
  // While it waited the target may have shrunk or gone.
  if (request_.error == kOk) request_.error = Judge(engine_.FindTarget(target_));
  Begin();
  std::vector<uint8_t> backlog;
  backlog.swap(backlog_);
  Parse(backlog.data(), backlog.size());
  engine_.MarkDirty(this);
}

void Session::Keep(const uint8_t* bytes, size_t count) {
  OVS_CHECK(backlog_.empty());
  OVS_CHECK(count <= kStagingBytes);
  backlog_.assign(bytes, bytes + count);
}

/** Takes the request's slots; `Admit` has said that they are there. */
void Session::Begin() {
  engine_.counters().requests++;
  in_flight_++;
  last_payload_ = request_.payload_bytes;
  payload_left_ = request_.payload_bytes;
  state_ = State::Header;
  const bool moves = request_.type == kCmdRead || request_.type == kCmdWrite;
  if (request_.error == kOk && moves && request_.bytes > 0) {
    BeginParts();
    return;
  }
  const uint32_t index = NewSlot();
  Slot& slot = engine_.slot(index);
  slot.offset = request_.offset;
  if (payload_left_ > 0) {
    slot.error = request_.error;
    part_ = index;
    state_ = State::Discard;
  } else if (request_.error != kOk || (request_.bytes == 0 && request_.type != kCmdFlush)) {
    AnswerNow(index, request_.error);
  } else {
    engine_.Publish(index, request_.flags, connection_, target_);
    engine_.MakeReady(index);
  }
}

void Session::BeginParts() {
  const bool write = request_.type == kCmdWrite;
  uint64_t offset = request_.offset;
  const uint64_t end = offset + request_.bytes;
  uint32_t first = kNone;
  uint32_t last = kNone;
  while (offset < end) {
    const uint32_t index = NewSlot();
    Slot& slot = engine_.slot(index);
    const uint32_t shift = static_cast<uint32_t>(offset % kClusterBytes);
    const bool rest = end - offset <= kPartBytes;
    slot.offset = offset;
    slot.shift = shift;
    slot.bytes = static_cast<uint32_t>(rest ? end - offset : kPartBytes - shift);
    if (first == kNone) {
      first = index;
    } else {
      engine_.slot(last).next = index;
    }
    slot.first = first;
    engine_.slot(first).pending++;
    last = index;
    offset += slot.bytes;
    engine_.Publish(index, request_.flags, connection_, target_);
  }
  OVS_CHECK(offset == end);
  OVS_CHECK(engine_.slot(first).pending <= need_);
  if (write) {
    state_ = State::Payload;
    part_ = first;
    part_filled_ = 0;
    return;
  }
  for (uint32_t part = first; part != kNone; part = engine_.slot(part).next) {
    engine_.MakeReady(part);
  }
}

/** A slot that is a request of one part without payload, until the caller says more. */
uint32_t Session::NewSlot() {
  const uint32_t index = engine_.Take();
  Slot& slot = engine_.slot(index);
  slot.session = this;
  slot.offset = 0;
  slot.bytes = 0;
  slot.shift = 0;
  slot.first = index;
  slot.next = kNone;
  slot.type = request_.type;
  slot.pending = request_.type == kCmdRead || request_.type == kCmdWrite ? 0 : 1;
  slot.error = kOk;
  slot.reply_bytes = 0;
  slot.next_output = kNone;
  slot.cookie = request_.cookie;
  slot.request_flags = request_.flags;
  slot.request_offset = request_.offset;
  slot.request_bytes = request_.bytes;
  return index;
}

size_t Session::ParsePayload(const uint8_t* bytes, size_t count) {
  size_t used = 0;
  while (used < count && state_ == State::Payload) {
    Slot& slot = engine_.slot(part_);
    const size_t take = std::min<size_t>(count - used, slot.bytes - part_filled_);
    std::memcpy(engine_.SlotMemory(part_) + slot.shift + part_filled_, bytes + used, take);
    PayloadArrived(take);
    used += take;
  }
  return used;
}

/** `bytes` more of the payload lie where they belong. */
void Session::PayloadArrived(size_t bytes) {
  OVS_CHECK(bytes <= payload_left_);
  payload_left_ -= bytes;
  while (bytes > 0) {
    Slot& slot = engine_.slot(part_);
    const size_t take = std::min<size_t>(bytes, slot.bytes - part_filled_);
    part_filled_ += static_cast<uint32_t>(take);
    bytes -= take;
    if (part_filled_ < slot.bytes) break;
    const uint32_t done = part_;
    part_ = slot.next;
    part_filled_ = 0;
    engine_.Checksum(done);
    engine_.MakeReady(done);
  }
  if (payload_left_ == 0) {
    OVS_CHECK(part_ == kNone);
    state_ = State::Header;
  }
}

void Session::FinishDiscard() {
  const uint32_t index = part_;
  part_ = kNone;
  state_ = State::Header;
  AnswerNow(index, engine_.slot(index).error);
}

void Session::AnswerNow(uint32_t first, uint32_t error) {
  Slot& slot = engine_.slot(first);
  OVS_CHECK(slot.state == SlotState::Filling);
  slot.state = SlotState::Done;
  slot.error = error;
  slot.pending = 0;
  RequestDone(first);
}

void Session::Drain() {
  if (state_ == State::Draining || state_ == State::Ended) return;
  // A request that has not arrived in full is never answered; what the target has of it, it may
  // carry out: an unanswered write may or may not have happened.
  if (state_ == State::Payload || state_ == State::Discard) {
    engine_.Abandon(engine_.slot(part_).first);
    in_flight_--;
  }
  if (state_ == State::Waiting) engine_.StopWaiting(this);
  part_ = kNone;
  state_ = State::Draining;
  std::vector<uint8_t>().swap(backlog_);
  engine_.MarkDirty(this);
}

void Session::End(const char* reason) {
  if (state_ == State::Ended) return;
  state_ = State::Ended;
  reason_ = reason;
  part_ = kNone;
  in_flight_ = 0;
  output_first_ = output_last_ = kNone;
  std::vector<uint8_t>().swap(backlog_);
  engine_.Forget(this);
  engine_.MarkDirty(this);
}

}  // namespace ovs::nbd
