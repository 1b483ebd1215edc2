// SPDX-License-Identifier: Apache-2.0
// Any bytes as a write-ahead log: findings, never a crash. Checksums are set right where the bytes
// look like records, so that the fuzzer comes past them.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "common/check.h"
#include "kv/core/wal.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  std::vector<uint8_t> log(data, data + bytes);
  for (size_t at = 0; at + 7 <= log.size();) {
    uint16_t length = 0;
    std::memcpy(&length, &log[at + 4], 2);
    const size_t end = at + 7 + length;
    if (end > log.size() || at / 32768 != (end - 1) / 32768) break;
    const uint32_t crc = ovs::kv::Crc32c(&log[at + 6], length + 1U);
    const uint32_t masked = ((crc >> 15) | (crc << 17)) + 0xa282ead8U;
    std::memcpy(&log[at], &masked, 4);
    at = end;
  }
  const int fd = memfd_create("wal", MFD_CLOEXEC);
  OVS_CHECK(fd >= 0);
  OVS_CHECK(write(fd, log.data(), log.size()) == static_cast<ssize_t>(log.size()));
  ovs::kv::WalFindings findings;
  const std::string file = "/proc/self/fd/" + std::to_string(fd);
  OVS_CHECK(ovs::kv::InspectWal({file, file}, &findings));
  OVS_CHECK(findings.regular == findings.where.empty());
  close(fd);
  return 0;
}
