// SPDX-License-Identifier: Apache-2.0
// The table of operations that JavaScript and the ring share. JavaScript takes a slot, writes what
// to do into the columns at that slot and puts the slot's number on the `staged` list; the ring
// puts it on the `done` list with a result. Between the two the slot's row is the ring's.
//
//   | offset f64[] | length f64[] | memory fd kind count result staged done: u32[] each | pieces |
//
// `pieces` holds kPiecesMax iovecs a slot. JavaScript writes arena offsets where the kernel wants
// pointers; the ring adds the arena's address in place. Pages of rows never used are never touched.
#pragma once
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>

namespace ovs::disk {

constexpr uint32_t kSlots = 4096;
constexpr uint32_t kPiecesMax = 1024;  // IOV_MAX of Linux.

enum class Kind : uint32_t {
  kRead = 0,
  kWrite = 1,
  kReadScatter = 2,
  kWriteGather = 3,
  kSync = 4,
  kAllocate = 5,
  kPunch = 6,
  // 7 is Truncate, which never comes here.
  kReadTogether = 8,  // A read that is told with all others like it of its Submit.
};

struct Table {
  double* offset;    // Place in the file, bytes.
  double* length;    // Bytes; of gathered ones the sum.
  uint32_t* memory;  // Arena offset, bytes.
  int32_t* fd;
  uint32_t* kind;
  uint32_t* count;  // Pieces of gathered ones.
  int32_t* result;  // Bytes, or -errno.
  uint32_t* staged;
  uint32_t* done;
  iovec* pieces;
};

static_assert(sizeof(iovec) == 16, "JavaScript writes iovecs as four 32-bit words");

constexpr size_t kColumnsBytes = kSlots * (2 * sizeof(double) + 7 * sizeof(uint32_t));
constexpr size_t kTableBytes = kColumnsBytes + size_t{kSlots} * kPiecesMax * sizeof(iovec);
static_assert(kTableBytes % 4096 == 0, "a table is whole pages");

/** The columns inside a block of kTableBytes. */
inline Table TableAt(uint8_t* base) {
  Table table;
  table.offset = reinterpret_cast<double*>(base);
  table.length = table.offset + kSlots;
  table.memory = reinterpret_cast<uint32_t*>(table.length + kSlots);
  table.fd = reinterpret_cast<int32_t*>(table.memory + kSlots);
  table.kind = reinterpret_cast<uint32_t*>(table.fd + kSlots);
  table.count = table.kind + kSlots;
  table.result = reinterpret_cast<int32_t*>(table.count + kSlots);
  table.staged = reinterpret_cast<uint32_t*>(table.result + kSlots);
  table.done = table.staged + kSlots;
  table.pieces = reinterpret_cast<iovec*>(base + kColumnsBytes);
  return table;
}

}  // namespace ovs::disk
