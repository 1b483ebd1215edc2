// SPDX-License-Identifier: Apache-2.0
// See wal.h.
#include "kv/core/wal.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "common/check.h"

namespace ovs::kv {

namespace {

constexpr size_t kBlockBytes = 32768;
constexpr size_t kHeaderBytes = 7;
constexpr size_t kBatchHeader = 12;
constexpr uint8_t kFull = 1, kFirst = 2, kMiddle = 3, kLast = 4;
constexpr uint8_t kTagLogData = 0x03;
constexpr char kMagic[8] = {'O', 'V', 'S', 's', 'y', 'n', 'c', '1'};
// tag, varint 16, magic, sequence: always the last bytes of a batch.
constexpr size_t kMarkBytes = 2 + sizeof(kMagic) + 8;

std::array<std::array<uint32_t, 256>, 8> MakeTables() {
  std::array<std::array<uint32_t, 256>, 8> tables{};
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ ((crc & 1) ? 0x82f63b78u : 0);
    tables[0][i] = crc;
  }
  for (size_t t = 1; t < 8; t++) {
    for (size_t i = 0; i < 256; i++) {
      const uint32_t before = tables[t - 1][i];
      tables[t][i] = (before >> 8) ^ tables[0][before & 0xff];
    }
  }
  return tables;
}

template <typename T>
T Load(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

uint32_t Unmask(uint32_t masked) {
  const uint32_t rotated = masked - 0xa282ead8u;
  return (rotated >> 17) | (rotated << 15);
}

// Puts the batches of a log together out of its physical records and keeps the findings.
class Reader {
 public:
  explicit Reader(WalFindings* findings) : findings_(findings) {}

  void Begin(const std::string& file) {
    file_ = &file;
    offset_ = 0;
    assembling_ = false;
  }

  // Behind a damaged record the next intact one is searched for byte by byte: it may bear the
  // mark that says the damaged one was synced.
  void Block(const uint8_t* block, size_t bytes) {
    size_t at = 0;
    bool lost = false;
    while (bytes - at >= kHeaderBytes) {
      const char* wrong = Invalid(block + at, bytes - at);
      if (wrong == nullptr) {
        at += Record(block + at);
        lost = false;
        continue;
      }
      if (!lost) Irregular(wrong, at);
      lost = true;
      at++;
    }
    if (bytes < kBlockBytes && at < bytes && !lost) Irregular("it ends inside a record", at);
    offset_ += bytes;
  }

  void End() {
    if (assembling_) Irregular("it ends inside a batch", 0);
  }

 private:
  void Irregular(const char* what, size_t at) {
    assembling_ = false;
    next_ = 0;
    if (!findings_->regular) return;
    findings_->regular = false;
    findings_->where = *file_ + " near byte " + std::to_string(offset_ + at) + ": " + what;
  }

  // Null when a whole physical record with the right checksum begins here, else why not.
  static const char* Invalid(const uint8_t* record, size_t room) {
    const size_t length = Load<uint16_t>(record + 4);
    const uint8_t kind = record[6];
    if (kind < kFull || kind > kLast || kHeaderBytes + length > room) {
      return "a record's header makes no sense";
    }
    const bool right = Crc32c(record + 6, length + 1) == Unmask(Load<uint32_t>(record));
    return right ? nullptr : "a record's checksum is wrong";
  }

  // Takes one valid physical record; returns its size.
  size_t Record(const uint8_t* record) {
    const size_t length = Load<uint16_t>(record + 4);
    const uint8_t kind = record[6];
    const bool begins = kind == kFull || kind == kFirst;
    if (begins == assembling_) Irregular("records of a batch are missing", 0);
    if (begins) batch_.clear();
    if (begins || assembling_) {
      batch_.append(reinterpret_cast<const char*>(record + kHeaderBytes), length);
      assembling_ = kind == kFirst || kind == kMiddle;
      if (!assembling_) Batch();
    }
    return kHeaderBytes + length;
  }

  void Batch() {
    if (batch_.size() < kBatchHeader) return Irregular("a batch is too short", 0);
    const uint8_t* bytes = reinterpret_cast<const uint8_t*>(batch_.data());
    const uint64_t sequence = Load<uint64_t>(bytes);
    const uint32_t count = Load<uint32_t>(bytes + 8);
    if (next_ != 0 && sequence != next_) Irregular("batches are missing", 0);
    next_ = sequence + count;
    if (batch_.size() < kBatchHeader + kMarkBytes) return;
    const uint8_t* mark = bytes + batch_.size() - kMarkBytes;
    if (mark[0] != kTagLogData || std::memcmp(mark + 2, kMagic, sizeof(kMagic)) != 0) return;
    const uint64_t synced = Load<uint64_t>(mark + 2 + sizeof(kMagic));
    if (synced > findings_->synced) findings_->synced = synced;
  }

  WalFindings* findings_;
  const std::string* file_ = nullptr;
  uint64_t offset_ = 0;
  uint64_t next_ = 0;
  bool assembling_ = false;
  std::string batch_;
};

bool ReadFile(const std::string& file, Reader* reader, std::string* error) {
  const int fd = open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    *error = file + ": " + std::strerror(errno);
    return false;
  }
  reader->Begin(file);
  std::vector<uint8_t> block(kBlockBytes);
  size_t filled = 0;
  while (true) {
    const ssize_t got = read(fd, block.data() + filled, kBlockBytes - filled);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      *error = file + ": " + std::strerror(errno);
      close(fd);
      return false;
    }
    filled += static_cast<size_t>(got);
    if (filled == kBlockBytes || got == 0) {
      if (filled > 0) reader->Block(block.data(), filled);
      filled = 0;
    }
    if (got == 0) break;
  }
  close(fd);
  reader->End();
  return true;
}

}  // namespace

uint32_t Crc32c(const uint8_t* data, size_t bytes) {
  static const auto tables = MakeTables();
  uint64_t crc = 0xffffffffu;
  for (; bytes >= 8; bytes -= 8, data += 8) {
    crc ^= Load<uint64_t>(data);
    uint32_t next = 0;
    for (size_t i = 0; i < 8; i++) next ^= tables[7 - i][(crc >> (8 * i)) & 0xff];
    crc = next;
  }
  for (; bytes > 0; bytes--, data++) crc = (crc >> 8) ^ tables[0][(crc ^ *data) & 0xff];
  return static_cast<uint32_t>(crc) ^ 0xffffffffu;
}

void AppendSyncedMark(std::string* batch, uint64_t synced) {
  OVS_CHECK(batch->size() >= kBatchHeader);
  batch->push_back(static_cast<char>(kTagLogData));
  batch->push_back(static_cast<char>(sizeof(kMagic) + 8));
  batch->append(kMagic, sizeof(kMagic));
  char bytes[8];
  std::memcpy(bytes, &synced, 8);
  batch->append(bytes, 8);
}

bool InspectWal(const std::vector<std::string>& files, WalFindings* findings) {
  Reader reader(findings);
  for (const std::string& file : files) {
    if (!ReadFile(file, &reader, &findings->where)) return false;
  }
  return true;
}

}  // namespace ovs::kv
