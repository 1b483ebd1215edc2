// SPDX-License-Identifier: Apache-2.0
// The core without Node: mappings, every kind of operation, more slots than the ring is deep,
// transfers that come in parts (through pipes) or are cut, and a ring that is given up.

#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "common/check.h"
#include "disk/core/mapping.h"
#include "disk/core/ring.h"

using namespace ovs::disk;

namespace {

constexpr size_t kArenaBytes = 32 << 20;
constexpr uint32_t kPage = 4096;

struct Fixture {
  Mapping* arena = Mapping::Create(kArenaBytes, false);
  Mapping* block = Mapping::Create(kTableBytes, false);
  Table table = TableAt(block->base());
  Ring* ring = nullptr;
  int file = -1;

  Fixture() {
    int error = 0;
    ring = Ring::Open(arena, block, &error);
    OVS_CHECK(ring != nullptr && error == 0);
    char name[] = "/tmp/ovs-disk-test-XXXXXX";
    file = mkostemp(name, O_CLOEXEC);
    OVS_CHECK(file >= 0 && unlink(name) == 0);
  }

  ~Fixture() {
    close(file);
    delete ring;
    arena->Release();
    block->Release();
  }

  void Set(uint32_t slot, Kind kind, int fd, uint64_t offset, uint32_t memory, uint64_t length) {
    table.kind[slot] = static_cast<uint32_t>(kind);
    table.fd[slot] = fd;
    table.offset[slot] = static_cast<double>(offset);
    table.memory[slot] = memory;
    table.length[slot] = static_cast<double>(length);
  }

  // A list of `count` pieces of `bytes`, the last one first.
  void SetPieces(uint32_t slot, uint32_t memory, uint32_t count, uint32_t bytes) {
    iovec* pieces = table.pieces + size_t{slot} * kPiecesMax;
    for (uint32_t i = 0; i < count; i++) {
      pieces[i].iov_base = reinterpret_cast<void*>(uint64_t{memory} + (count - 1 - i) * bytes);
      pieces[i].iov_len = bytes;
    }
    table.count[slot] = count;
  }

  void Submit(uint32_t slot) {
    table.staged[0] = slot;
    ring->Submit(1);
  }

  // Waits until at least one slot is done, or returns 0 after the time.
  uint32_t Await(int timeout_ms) {
    pollfd waiter = {ring->poll_fd(), POLLIN, 0};
    while (poll(&waiter, 1, timeout_ms) > 0) {
      uint32_t done = ring->Reap(kSlots);
      if (done > 0) return done;
    }
    return 0;
  }

  int32_t Run(uint32_t slot) {
    Submit(slot);
    OVS_CHECK(Await(10'000) == 1 && table.done[0] == slot);
    OVS_CHECK(ring->in_flight() == 0);
    return table.result[slot];
  }
};

void TestMapping() {
  Mapping* first = Mapping::Create(8 * kPage, true);
  Mapping* second = Mapping::Create(kPage, false);
  OVS_CHECK(reinterpret_cast<uintptr_t>(first->base()) % (2 << 20) == 0);
  OVS_CHECK(first->base()[0] == 0 && first->base()[8 * kPage - 1] == 0);
  OVS_CHECK(Mapping::Find(first->base()) == first);
  OVS_CHECK(Mapping::Find(first->base() + kPage) == nullptr);
  const void* base = first->base();
  first->Release();
  OVS_CHECK(Mapping::Find(base) == first);
  first->Release();
  first->Release();
  OVS_CHECK(Mapping::Find(base) == nullptr);
  second->Release();
  OVS_CHECK(Mapping::Create(size_t{1} << 60, false) == nullptr);
}

void TestKinds() {
  Fixture f;
  for (uint32_t i = 0; i < 16 * kPage; i++) f.arena->base()[i] = static_cast<uint8_t>(i * 7);
  f.Set(0, Kind::kWrite, f.file, 0, 0, 16 * kPage);
  OVS_CHECK(f.Run(0) == 16 * kPage);
  f.Set(5, Kind::kRead, f.file, kPage, 1 << 20, 16 * kPage);
  OVS_CHECK(f.Run(5) == 15 * kPage);
  OVS_CHECK(memcmp(f.arena->base() + kPage, f.arena->base() + (1 << 20), 15 * kPage) == 0);
  f.Set(kSlots - 1, Kind::kWriteGather, f.file, 0, 0, 16 * kPage);
  f.SetPieces(kSlots - 1, 0, 16, kPage);
  OVS_CHECK(f.Run(kSlots - 1) == 16 * kPage);
  f.Set(1, Kind::kReadScatter, f.file, 0, 0, 16 * kPage);
  f.SetPieces(1, 2 << 20, 16, kPage);
  OVS_CHECK(f.Run(1) == 16 * kPage);
  OVS_CHECK(memcmp(f.arena->base(), f.arena->base() + (2 << 20), 16 * kPage) == 0);
  f.Set(2, Kind::kSync, f.file, 0, 0, 0);
  OVS_CHECK(f.Run(2) == 0);
  f.Set(3, Kind::kAllocate, f.file, 0, 0, 64 * kPage);
  OVS_CHECK(f.Run(3) == 0 && lseek(f.file, 0, SEEK_END) == 64 * kPage);
  f.Set(4, Kind::kPunch, f.file, 0, 0, kPage);
  OVS_CHECK(f.Run(4) == 0);
  f.Set(5, Kind::kRead, f.file, 0, 0, kPage);
  OVS_CHECK(f.Run(5) == kPage && f.arena->base()[100] == 0);
  f.Set(6, Kind::kRead, -1, 0, 0, kPage);
  OVS_CHECK(f.Run(6) == -EBADF);
  f.Set(6, Kind::kRead, f.file, 64 * kPage, 0, kPage);
  OVS_CHECK(f.Run(6) == 0);
}

// More than the ring is deep: the rest waits, and every slot comes back once.
void TestDepth() {
  Fixture f;
  std::vector<int> seen(kSlots);
  for (uint32_t i = 0; i < kSlots; i++) {
    f.Set(i, Kind::kWrite, f.file, uint64_t{i} * kPage, i * kPage, kPage);
    f.table.staged[i] = kSlots - 1 - i;
  }
  f.ring->Submit(kSlots);
  OVS_CHECK(f.ring->in_flight() == kSlots);
  for (uint32_t total = 0; total < kSlots;) {
    uint32_t done = f.Await(10'000);
    OVS_CHECK(done > 0);
    for (uint32_t i = 0; i < done; i++) {
      uint32_t slot = f.table.done[i];
      OVS_CHECK(seen[slot]++ == 0 && f.table.result[slot] == kPage);
    }
    total += done;
  }
  OVS_CHECK(f.ring->in_flight() == 0 && f.ring->Reap(kSlots) == 0);
}

// No more are told than asked for, the ring stays readable, and a bundle is not taken apart.
void TestPortions() {
  Fixture f;
  constexpr uint32_t kCount = 20;
  uint32_t seen = 0;
  for (uint32_t i = 0; i < kCount; i++) {
    f.Set(i, Kind::kWrite, f.file, uint64_t{i} * kPage, i * kPage, kPage);
    f.table.staged[i] = i;
  }
  f.ring->Submit(kCount);
  for (uint32_t told = 0; told < kCount; told++) {
    OVS_CHECK(f.ring->in_flight() == kCount - told);
    pollfd waiter = {f.ring->poll_fd(), POLLIN, 0};
    OVS_CHECK(poll(&waiter, 1, 10'000) == 1);
    OVS_CHECK(f.ring->Reap(1) == 1 && (seen & 1u << f.table.done[0]) == 0);
    seen |= 1u << f.table.done[0];
  }
  OVS_CHECK(f.ring->in_flight() == 0 && f.ring->Reap(1) == 0);
  for (uint32_t i = 0; i < 3; i++) {
    f.Set(i, Kind::kReadTogether, f.file, uint64_t{i} * kPage, i * kPage, kPage);
    f.table.staged[i] = i;
  }
  f.ring->Submit(3);
  uint32_t done = 0;
  for (pollfd waiter = {f.ring->poll_fd(), POLLIN, 0}; done == 0; done = f.ring->Reap(1)) {
    OVS_CHECK(poll(&waiter, 1, 10'000) == 1);
  }
  OVS_CHECK(done == 3 && f.ring->in_flight() == 0);
}

// Reads that are to be told together wait for each other, and nobody else waits for them.
void TestTogether() {
  Fixture f;
  int ends[2];
  OVS_CHECK(pipe(ends) == 0);
  f.Set(0, Kind::kWrite, f.file, 0, 0, 4 * kPage);
  OVS_CHECK(f.Run(0) == 4 * kPage);
  for (int round = 0; round < 3; round++) {
    f.Set(1, Kind::kReadTogether, f.file, 0, kPage, kPage);
    f.Set(2, Kind::kReadTogether, ends[0], 0, 2 * kPage, kPage);
    f.Set(3, Kind::kRead, f.file, kPage, 3 * kPage, kPage);
    f.Set(4, Kind::kReadTogether, f.file, 4 * kPage, 4 * kPage, kPage);
    for (uint32_t i = 0; i < 4; i++) f.table.staged[i] = 1 + i;
    f.ring->Submit(4);
    OVS_CHECK(f.Await(10'000) == 1 && f.table.done[0] == 3);
    f.Set(5, Kind::kReadTogether, f.file, 0, 5 * kPage, kPage);
    f.Submit(5);
    OVS_CHECK(f.Await(10'000) == 1 && f.table.done[0] == 5 && f.table.result[5] == kPage);
    while (f.ring->in_flight() > 1) OVS_CHECK(f.Await(1) == 0);
    OVS_CHECK(f.Await(1) == 0);
    OVS_CHECK(write(ends[1], f.arena->base(), kPage) == kPage);
    OVS_CHECK(f.Await(10'000) == 3 && f.ring->in_flight() == 0);
    OVS_CHECK(f.table.result[1] == kPage && f.table.result[2] == kPage && f.table.result[4] == 0);
  }
  close(ends[0]);
  close(ends[1]);
}

// A pipe gives what is in it: the ring goes on until all of it is there.
void TestParts() {
  Fixture f;
  int ends[2];
  OVS_CHECK(pipe(ends) == 0);
  std::vector<uint8_t> sent(6 * kPage);
  for (size_t i = 0; i < sent.size(); i++) sent[i] = static_cast<uint8_t>(i * 13 + i / 256);
  for (Kind kind : {Kind::kRead, Kind::kReadScatter}) {
    f.Set(9, kind, ends[0], 0, kPage, sent.size());
    f.SetPieces(9, kPage, 6, kPage);
    f.Submit(9);
    size_t at = 0;
    for (size_t part : {1ul, 4095ul, 4096ul, 100ul, 8192ul, 8092ul}) {
      OVS_CHECK(f.Await(1) == 0);
      OVS_CHECK(write(ends[1], sent.data() + at, part) == static_cast<ssize_t>(part));
      at += part;
    }
    OVS_CHECK(at == sent.size());
    OVS_CHECK(f.Await(10'000) == 1);
    OVS_CHECK(f.table.result[9] == static_cast<int32_t>(sent.size()));
    for (uint32_t page = 0; page < 6; page++) {
      uint32_t where = kind == Kind::kRead ? page : 5 - page;
      const uint8_t* got = f.arena->base() + (1 + where) * kPage;
      OVS_CHECK(memcmp(got, sent.data() + page * kPage, kPage) == 0);
    }
  }
  // The other side goes: what came is the answer, and then nothing.
  f.Set(9, Kind::kRead, ends[0], 0, 0, kPage);
  OVS_CHECK(write(ends[1], sent.data(), 10) == 10);
  close(ends[1]);
  OVS_CHECK(f.Run(9) == 10);
  OVS_CHECK(f.Run(9) == 0);
  close(ends[0]);
}

// A limit of the file's size cuts a write in the middle of a piece; the rest is an error.
void TestCutWrite() {
  Fixture f;
  rlimit before;
  OVS_CHECK(getrlimit(RLIMIT_FSIZE, &before) == 0);
  signal(SIGXFSZ, SIG_IGN);
  rlimit cut = {2 * kPage + 100, before.rlim_max};
  OVS_CHECK(setrlimit(RLIMIT_FSIZE, &cut) == 0);
  f.Set(7, Kind::kWriteGather, f.file, 0, 0, 4 * kPage);
  f.SetPieces(7, 0, 4, kPage);
  int32_t gathered = f.Run(7);
  f.Set(8, Kind::kWrite, f.file, 0, 0, 4 * kPage);
  int32_t plain = f.Run(8);
  OVS_CHECK(setrlimit(RLIMIT_FSIZE, &before) == 0);
  OVS_CHECK(gathered == -EFBIG && plain == -EFBIG);
}

void TestDrain() {
  {
    Fixture f;
    for (uint32_t i = 0; i < 3000; i++) {
      f.Set(i, Kind::kWrite, f.file, uint64_t{i} * kPage, i * kPage, kPage);
      f.table.staged[i] = i;
    }
    f.ring->Submit(3000);
    OVS_CHECK(f.ring->Drain(10'000) && f.ring->in_flight() == 0);
  }
  Fixture f;
  int ends[2];
  OVS_CHECK(pipe(ends) == 0);
  f.Set(0, Kind::kRead, ends[0], 0, 0, kPage);
  f.Submit(0);
  OVS_CHECK(!f.ring->Drain(50));
  const void* arena = f.arena->base();
  delete f.ring;
  f.ring = nullptr;
  // The kernel may still write there: the memory stays.
  Mapping* kept = Mapping::Find(arena);
  OVS_CHECK(kept == f.arena);
  kept->Release();
  OVS_CHECK(write(ends[1], "x", 1) == 1);
  close(ends[0]);
  close(ends[1]);
}

}  // namespace

int main() {
  int error = 0;
  Mapping* arena = Mapping::Create(kPage, false);
  Mapping* block = Mapping::Create(kTableBytes, false);
  Ring* ring = Ring::Open(arena, block, &error);
  delete ring;
  arena->Release();
  block->Release();
  TestMapping();
  if (ring == nullptr) {
    std::printf("no io_uring here: %s\n", strerror(-error));
    return 0;
  }
  TestKinds();
  TestDepth();
  TestPortions();
  TestTogether();
  TestParts();
  TestCutWrite();
  TestDrain();
  std::printf("disk core: all tests passed\n");
  return 0;
}
