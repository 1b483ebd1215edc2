// SPDX-License-Identifier: Apache-2.0
// Opening a store: options, who holds it, and whether its log still has all that was synced.
#include <dirent.h>
#include <fcntl.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/table.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "common/check.h"
#include "kv/core/kv.h"
#include "kv/core/wal.h"

namespace ovs::kv {

namespace {

constexpr int kOpenFilesMax = 512;
constexpr int kFilterBitsPerKey = 10;
constexpr uint64_t kMetadataBlockBytes = 4096;
constexpr uint64_t kInfoLogBytesMax = 1ULL << 20;
constexpr uint64_t kManifestBytesMax = 8ULL << 20;

rocksdb::Options MakeOptions(const Settings& settings,
                             const std::shared_ptr<rocksdb::Cache>& cache) {
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = cache;
  // Index and filter in pieces: a whole filter of a large table is larger than a shard of a small
  // cache, so that it would be read again for each key.
  table.index_type = rocksdb::BlockBasedTableOptions::kTwoLevelIndexSearch;
  table.partition_filters = true;
  table.metadata_block_size = kMetadataBlockBytes;
  table.cache_index_and_filter_blocks = true;
  table.cache_index_and_filter_blocks_with_high_priority = true;
  table.pin_top_level_index_and_filter = true;
  table.pin_l0_filter_and_index_blocks_in_cache = true;
  table.optimize_filters_for_memory = true;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(kFilterBitsPerKey));
  table.format_version = 5;
  rocksdb::Options options;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  options.create_if_missing = settings.create;
  options.write_buffer_size = settings.write_buffer_bytes;
  options.max_write_buffer_number = 3;
  options.max_open_files = kOpenFilesMax;
  options.max_background_jobs = 2;
  options.compression = rocksdb::kNoCompression;
  options.level_compaction_dynamic_level_bytes = true;
  options.paranoid_checks = true;
  options.track_and_verify_wals_in_manifest = true;
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kPointInTimeRecovery;  // See wal.h.
  options.recycle_log_file_num = 0;
  options.allow_concurrent_memtable_write = false;  // There is one writer.
  options.enable_write_thread_adaptive_yield = false;
  options.avoid_unnecessary_blocking_io = true;
  options.bytes_per_sync = 1 << 20;
  options.max_manifest_file_size = kManifestBytesMax;
  options.max_log_file_size = kInfoLogBytesMax;
  options.keep_log_file_num = 2;
  options.info_log_level = rocksdb::InfoLogLevel::WARN_LEVEL;
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  return options;
}

// The store's write-ahead logs in the order of their numbers.
std::vector<std::string> LogFiles(const std::string& path) {
  std::vector<std::pair<uint64_t, std::string>> found;
  if (DIR* folder = opendir(path.c_str())) {
    while (const dirent* entry = readdir(folder)) {
      char* rest = nullptr;
      const uint64_t number = std::strtoull(entry->d_name, &rest, 10);
      if (rest != entry->d_name && std::strcmp(rest, ".log") == 0) {
        found.emplace_back(number, path + "/" + entry->d_name);
      }
    }
    closedir(folder);
  }
  std::sort(found.begin(), found.end());
  std::vector<std::string> files;
  files.reserve(found.size());
  for (auto& [number, file] : found) files.push_back(std::move(file));
  return files;
}

// Says who holds the store. Never opens the lock file when this very process holds it: closing
// it again would give up the lock.
Outcome Held(const std::string& path, const std::string& status) {
  const std::string holds = path + " is already open in ";
  if (status.find("current process") != std::string::npos) {
    return {Code::kBusy, holds + "this process"};
  }
  const int fd = open((path + "/LOCK").c_str(), O_RDWR | O_CLOEXEC);
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  const bool known = fd >= 0 && fcntl(fd, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
  if (fd >= 0) close(fd);
  if (!known) return {Code::kBusy, holds + "another process"};
  return {Code::kBusy, holds + "the process with pid " + std::to_string(lock.l_pid)};
}

Outcome OpenFailed(const std::string& path, const rocksdb::Status& status) {
  const std::string text = status.ToString();
  if (status.IsIOError() && text.find("lock") != std::string::npos) return Held(path, text);
  if (status.IsInvalidArgument() && text.find("does not exist") != std::string::npos) {
    return {Code::kNotFound, "there is no store in " + path};
  }
  Outcome outcome = FromStatus(status, "cannot open the store in " + path);
  // What RocksDB calls an invalid argument here, its own files said.
  if (outcome.code == Code::kInvalid || outcome.code == Code::kNotFound) {
    outcome.code = Code::kCorrupt;
  }
  return outcome;
}

Outcome Lost(const std::string& path, const WalFindings& findings, uint64_t reached) {
  return {Code::kCorrupt, "the log of the store in " + path + " is damaged: " +
                              (findings.where.empty() ? "a part is missing" : findings.where) +
                              "; entries up to number " + std::to_string(findings.synced) +
                              " were synced, but only " + std::to_string(reached) +
                              " can be read. Restore it from a copy"};
}

// Replays into memory only, so that a refused store stays as it is.
Outcome Rehearse(const std::string& path, const rocksdb::Options& options,
                 const WalFindings& findings) {
  rocksdb::DB* made = nullptr;
  const rocksdb::Status status = rocksdb::DB::OpenForReadOnly(options, path, &made);
  const std::unique_ptr<rocksdb::DB> db(made);
  if (!status.ok()) return OpenFailed(path, status);
  const uint64_t reached = db->GetLatestSequenceNumber();
  if (reached < findings.synced) return Lost(path, findings, reached);
  return {};
}

Outcome Inspect(const std::string& path, bool exists, const rocksdb::Options& options,
                WalFindings* findings) {
  const std::vector<std::string> files = LogFiles(path);
  if (!exists && !files.empty()) {
    return {Code::kCorrupt, "the store in " + path + " has logs but no file CURRENT"};
  }
  if (!InspectWal(files, findings)) {
    return {Code::kFailed, "cannot read the log " + findings->where};
  }
  return findings->regular ? Outcome{} : Rehearse(path, options, *findings);
}

}  // namespace

Outcome OpenDatabase(const std::string& path, const Settings& settings,
                     const std::shared_ptr<rocksdb::Cache>& cache, rocksdb::DB** db) {
  const rocksdb::Options options = MakeOptions(settings, cache);
  struct stat info;
  const bool exists = stat((path + "/CURRENT").c_str(), &info) == 0;
  if (!exists && !settings.create) return {Code::kNotFound, "there is no store in " + path};
  // Held while the log is inspected, so that nobody is writing it then.
  rocksdb::FileLock* lock = nullptr;
  if (exists) {
    const rocksdb::Status locked = options.env->LockFile(path + "/LOCK", &lock);
    if (!locked.ok()) return OpenFailed(path, locked);
  }
  WalFindings findings;
  Outcome inspected = Inspect(path, exists, options, &findings);
  if (lock != nullptr) options.env->UnlockFile(lock);
  if (!inspected.Ok()) return inspected;
  const rocksdb::Status status = rocksdb::DB::Open(options, path, db);
  if (!status.ok()) return OpenFailed(path, status);
  const uint64_t reached = (*db)->GetLatestSequenceNumber();
  if (reached >= findings.synced) return {};
  delete *db;
  *db = nullptr;
  return Lost(path, findings, reached);
}

}  // namespace ovs::kv
