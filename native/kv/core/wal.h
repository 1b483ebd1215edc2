// SPDX-License-Identifier: Apache-2.0
// The write-ahead log, read by ourselves before RocksDB replays it.
//
// RocksDB's recovery modes cannot do what we need. kTolerateCorruptedTailRecords refuses a store
// after a power cut that tore the unsynced end out of order, and skips a block of zeroes in
// silence; kPointInTimeRecovery takes one flipped bit in the middle for the end and drops all that
// was acknowledged after it. So every write carries a mark: the highest sequence number that was
// synced before it. At opening we look for the highest mark in all that is readable, on both
// sides of whatever is damaged: replay must reach at least that far, else the store is refused
// (P-A3). What lies above the highest mark may be torn, and is cut by kPointInTimeRecovery.
//
//   log file: blocks of 32 KiB; in a block records { masked CRC-32C 4, bytes 2, kind 1, data };
//   a batch is one record of kind full, or first, middle…, last over several blocks.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace ovs::kv {

// Appends the mark to a batch in wire format (a log-data record, which is not counted).
void AppendSyncedMark(std::string* batch, uint64_t synced);

struct WalFindings {
  // Highest sequence number that some intact record says was synced; 0 when there is none.
  uint64_t synced = 0;
  // False when some record or block was damaged, torn, or did not continue the one before.
  bool regular = true;
  // Where the first irregularity lies, in words.
  std::string where;
};

// Reads the log files, in order, and says what they promise. False: one cannot be read (`where`).
bool InspectWal(const std::vector<std::string>& files, WalFindings* findings);

// CRC-32C of `bytes` at `data`.
uint32_t Crc32c(const uint8_t* data, size_t bytes);

}  // namespace ovs::kv
