// SPDX-License-Identifier: Apache-2.0
// See ring.h.
#include "disk/core/ring.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <time.h>

#include <algorithm>
#include <cerrno>

#include "common/check.h"

namespace ovs::disk {
namespace {

// How often one operation may be interrupted before its error is reported.
constexpr uint16_t kRetriesMax = 100;
// How long the kernel may refuse entries (out of memory) while nothing of ours is under way.
constexpr int kRefusalsMax = 10'000;
constexpr timespec kRefusalPause = {0, 1'000'000};

bool IsRead(Kind kind) {
  return kind == Kind::kRead || kind == Kind::kReadScatter || kind == Kind::kReadTogether;
}

bool IsGathered(Kind kind) { return kind == Kind::kReadScatter || kind == Kind::kWriteGather; }

bool IsTransfer(Kind kind) {
  return static_cast<uint32_t>(kind) <= 3 || kind == Kind::kReadTogether;
}

// COOP_TASKRUN (Linux 5.19) spares the running thread an interrupt for each completion.
int InitQueue(io_uring* ring) {
  int failed = io_uring_queue_init(kDepth, ring, IORING_SETUP_COOP_TASKRUN);
  if (failed == -EINVAL) failed = io_uring_queue_init(kDepth, ring, 0);
  return failed;
}

// Plain reads and writes came with 5.6, with or after everything else that is used here.
bool HasOperations(io_uring* ring) {
  io_uring_probe* probe = io_uring_get_probe_ring(ring);
  if (probe == nullptr) return false;
  bool has = true;
  for (int operation : {IORING_OP_READ, IORING_OP_WRITE, IORING_OP_READV, IORING_OP_WRITEV,
                        IORING_OP_FSYNC, IORING_OP_FALLOCATE}) {
    has = has && io_uring_opcode_supported(probe, operation);
  }
  io_uring_free_probe(probe);
  return has && (ring->features & IORING_FEAT_SUBMIT_STABLE) != 0;
}

int64_t NowMs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

}  // namespace

Ring* Ring::Open(Mapping* arena, Mapping* table, int* error) {
  OVS_CHECK(table->bytes() == kTableBytes);
  io_uring queue{};
  *error = InitQueue(&queue);
  if (*error != 0) return nullptr;
  if (!HasOperations(&queue)) {
    io_uring_queue_exit(&queue);
    *error = -ENOSYS;
    return nullptr;
  }
  io_uring_register_ring_fd(&queue);  // Saves a look-up a call; older kernels go without.
  Ring* ring = new Ring;
  ring->queue_ = queue;
  arena->Retain();
  table->Retain();
  ring->arena_ = arena;
  ring->table_mapping_ = table;
  ring->table_ = TableAt(table->base());
  ring->waiting_.resize(kSlots);
  ring->progress_.resize(kSlots);
  ring->first_piece_.resize(kSlots);
  ring->retries_.resize(kSlots);
  ring->bundle_of_.resize(kSlots);
  return ring;
}

Ring::~Ring() {
  if (abandoned_) return;
  OVS_CHECK(in_flight() == 0);
  io_uring_queue_exit(&queue_);
  arena_->Release();
  table_mapping_->Release();
}

void Ring::Submit(uint32_t count) {
  OVS_CHECK(count <= kSlots);
  for (uint32_t i = 0; i < count; i++) {
    uint32_t slot = table_.staged[i];
    OVS_CHECK(slot < kSlots);
    progress_[slot] = 0;
    first_piece_[slot] = 0;
    retries_[slot] = 0;
    Locate(slot);
    Push(slot);
  }
  Bundle(count);
  Flush();
}

// Puts the staged reads that are to be told together into a bundle.
void Ring::Bundle(uint32_t count) {
  static_assert(kSlots <= UINT16_MAX, "a bundle for each slot can be numbered");
  uint16_t left = 0;
  uint16_t bundle = 0;
  for (uint32_t i = 0; i < count; i++) {
    uint32_t slot = table_.staged[i];
    if (static_cast<Kind>(table_.kind[slot]) != Kind::kReadTogether) continue;
    if (left == 0) {
      if (bundles_free_.empty()) {
        bundles_free_.push_back(static_cast<uint16_t>(bundle_left_.size()));
        bundle_left_.push_back(0);
        bundle_held_.emplace_back();
      }
      bundle = bundles_free_.back();
      bundles_free_.pop_back();
    }
    left++;
    bundle_of_[slot] = bundle;
  }
  if (left > 0) bundle_left_[bundle] = left;
}

// Puts a finished slot on the done list, or holds it back for the others of its bundle; returns the
// length of the list.
uint32_t Ring::Tell(uint32_t slot, uint32_t done) {
  if (static_cast<Kind>(table_.kind[slot]) != Kind::kReadTogether) {
    table_.done[done++] = slot;
    return done;
  }
  uint16_t bundle = bundle_of_[slot];
  std::vector<uint32_t>& held = bundle_held_[bundle];
  held.push_back(slot);
  OVS_CHECK(bundle_left_[bundle] > 0);
  if (--bundle_left_[bundle] > 0) return done;
  for (uint32_t finished : held) table_.done[done++] = finished;
  held.clear();
  bundles_free_.push_back(bundle);
  return done;
}

// Checks the slot's memory and turns arena offsets of pieces into pointers.
void Ring::Locate(uint32_t slot) {
  Kind kind = static_cast<Kind>(table_.kind[slot]);
  OVS_CHECK(kind <= Kind::kPunch || kind == Kind::kReadTogether);
  if (!IsTransfer(kind)) return;
  if (!IsGathered(kind)) {
    uint64_t end = uint64_t{table_.memory[slot]} + static_cast<uint64_t>(table_.length[slot]);
    OVS_CHECK(end <= arena_->bytes());
    return;
  }
  OVS_CHECK(table_.count[slot] > 0 && table_.count[slot] <= kPiecesMax);
  iovec* pieces = table_.pieces + size_t{slot} * kPiecesMax;
  for (uint32_t i = 0; i < table_.count[slot]; i++) {
    uint64_t offset = reinterpret_cast<uint64_t>(pieces[i].iov_base);
    OVS_CHECK(offset <= arena_->bytes() && pieces[i].iov_len <= arena_->bytes() - offset);
    pieces[i].iov_base = arena_->base() + offset;
  }
}

void Ring::Push(uint32_t slot) {
  OVS_CHECK(waiting_count_ < kSlots);
  waiting_[(waiting_first_ + waiting_count_) % kSlots] = slot;
  waiting_count_++;
}

// Moves what waits into the kernel, as far as there is room.
void Ring::Flush() {
  while (waiting_count_ > 0 && in_kernel_ < kDepth) {
    io_uring_sqe* sqe = io_uring_get_sqe(&queue_);
    if (sqe == nullptr) break;  // Entries that the kernel refused fill the queue.
    Prepare(sqe, waiting_[waiting_first_]);
    waiting_first_ = (waiting_first_ + 1) % kSlots;
    waiting_count_--;
    in_kernel_++;
    unsubmitted_++;
  }
  int refusals = 0;
  while (unsubmitted_ > 0) {
    int taken = io_uring_submit(&queue_);
    if (taken > 0) {
      OVS_CHECK(static_cast<uint32_t>(taken) <= unsubmitted_);
      unsubmitted_ -= taken;
      continue;
    }
    OVS_CHECK(taken == 0 || taken == -EAGAIN || taken == -EBUSY || taken == -EINTR);
    // Refused for want of memory. A completion brings us here again; without one we wait.
    if (taken != -EINTR && in_kernel_ > unsubmitted_) return;
    OVS_CHECK(++refusals < kRefusalsMax);
    nanosleep(&kRefusalPause, nullptr);
  }
}

void Ring::Prepare(io_uring_sqe* sqe, uint32_t slot) {
  int fd = table_.fd[slot];
  uint64_t done = progress_[slot];
  uint64_t offset = static_cast<uint64_t>(table_.offset[slot]) + done;
  uint64_t left = static_cast<uint64_t>(table_.length[slot]) - done;
  uint8_t* memory = arena_->base() + table_.memory[slot] + done;
  uint32_t first = first_piece_[slot];
  const iovec* pieces = table_.pieces + size_t{slot} * kPiecesMax + first;
  uint32_t count = table_.count[slot] - first;
  switch (static_cast<Kind>(table_.kind[slot])) {
    case Kind::kRead:
    case Kind::kReadTogether:
      io_uring_prep_read(sqe, fd, memory, left, offset);
      break;
    case Kind::kWrite:
      io_uring_prep_write(sqe, fd, memory, left, offset);
      break;
    case Kind::kReadScatter:
      io_uring_prep_readv(sqe, fd, pieces, count, offset);
      break;
    case Kind::kWriteGather:
      io_uring_prep_writev(sqe, fd, pieces, count, offset);
      break;
    case Kind::kSync:
      io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
      break;
    case Kind::kAllocate:
      io_uring_prep_fallocate(sqe, fd, 0, offset, left);
      break;
    case Kind::kPunch:
      io_uring_prep_fallocate(sqe, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, left);
      break;
  }
  io_uring_sqe_set_data64(sqe, slot);
}

uint32_t Ring::Reap(uint32_t limit) {
  OVS_CHECK(limit > 0);
  uint32_t seen = 0;
  uint32_t done = 0;
  unsigned head;
  io_uring_cqe* cqe;
  io_uring_for_each_cqe(&queue_, head, cqe) {
    if (done >= limit) break;
    uint32_t slot = static_cast<uint32_t>(cqe->user_data);
    seen++;
    if (Finished(slot, cqe->res)) {
      done = Tell(slot, done);
    } else {
      Push(slot);
    }
  }
  OVS_CHECK(seen <= in_kernel_ - unsubmitted_);
  io_uring_cq_advance(&queue_, seen);
  in_kernel_ -= seen;
  if (waiting_count_ > 0 || unsubmitted_ > 0) Flush();
  return done;
}

// Takes the kernel's answer; false when the slot has to go to the kernel again.
bool Ring::Finished(uint32_t slot, int32_t result) {
  Kind kind = static_cast<Kind>(table_.kind[slot]);
  if ((result == -EINTR || result == -EAGAIN) && retries_[slot]++ < kRetriesMax) return false;
  int32_t& answer = table_.result[slot];
  uint64_t before = progress_[slot];
  if (result < 0) {
    // Direct I/O cannot go on from the unaligned end of a file: there is no more to read.
    bool at_end = result == -EINVAL && IsRead(kind) && before > 0;
    answer = at_end ? static_cast<int32_t>(before) : result;
    return true;
  }
  if (!IsTransfer(kind)) {
    answer = 0;
    return true;
  }
  uint64_t total = static_cast<uint64_t>(table_.length[slot]);
  uint64_t progress = before + static_cast<uint64_t>(result);
  OVS_CHECK(progress <= total);
  if (progress == total || result == 0) {
    bool stuck = progress < total && !IsRead(kind);
    answer = stuck ? -EIO : static_cast<int32_t>(progress);
    return true;
  }
  progress_[slot] = progress;
  if (IsGathered(kind)) SkipPieces(slot, static_cast<uint64_t>(result));
  return false;
}

void Ring::SkipPieces(uint32_t slot, uint64_t bytes) {
  iovec* pieces = table_.pieces + size_t{slot} * kPiecesMax;
  uint32_t& first = first_piece_[slot];
  while (bytes > 0 && bytes >= pieces[first].iov_len) {
    bytes -= pieces[first].iov_len;
    first++;
    OVS_CHECK(first < table_.count[slot]);
  }
  pieces[first].iov_base = static_cast<uint8_t*>(pieces[first].iov_base) + bytes;
  pieces[first].iov_len -= bytes;
}

bool Ring::Drain(int timeout_ms) {
  waiting_count_ = 0;
  in_kernel_ -= unsubmitted_;
  unsubmitted_ = 0;
  int64_t deadline = NowMs() + timeout_ms;
  while (in_kernel_ > 0) {
    int64_t left = deadline - NowMs();
    if (left <= 0) {
      abandoned_ = true;
      return false;
    }
    __kernel_timespec limit = {left / 1000, (left % 1000) * 1'000'000};
    io_uring_cqe* cqe = nullptr;
    if (io_uring_wait_cqe_timeout(&queue_, &cqe, &limit) != 0) continue;
    io_uring_cqe_seen(&queue_, cqe);
    in_kernel_--;
  }
  return true;
}

}  // namespace ovs::disk
