// SPDX-License-Identifier: Apache-2.0
// The handshake and option haggling of one connection (fixed newstyle): bytes in, bytes out, and
// at the end either what was agreed on or a reason why not. Touches no socket.
//
//   Flags ──4 bytes──► Option ──16 bytes──► Data ──option carried out──► Option … ──► Done
//                                                                                └──► Ended
//
// An option's data is collected up to kOptionDataMax; more is skipped and answered "too big".
// Nothing is parsed while replies wait to be sent, so a client cannot make us pile them up.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "nbd/core/wire.h"

namespace ovs::nbd {

struct Export {
  std::string name;
  std::string description;
  uint64_t size_bytes;
  uint16_t flags;  // Transmission flags, without DF.
};

struct Exports {
  std::vector<Export> list;
  uint32_t request_bytes_max;
  /** By name; the empty name means the first one. Null when there is none. */
  const Export* Find(std::string_view name) const;
};

constexpr uint32_t kNameMax = 4096;
constexpr uint32_t kOptionDataMax = 64 << 10;
constexpr uint32_t kOptionSkipMax = 16 << 20;
constexpr uint32_t kOptionsMax = 4096;

class Negotiation {
 public:
  enum class State : uint8_t { Flags, Option, Data, Skip, Done, Ended };

  /** `exports` outlives this and may change between calls. */
  explicit Negotiation(const Exports& exports);

  State state() const { return state_; }
  /** Why it ended, for the log; empty after a polite ABORT. */
  const std::string& reason() const { return reason_; }
  /** Name of the chosen export (never the empty alias), when Done. */
  const std::string& name() const { return name_; }
  Mode mode() const { return mode_; }
  /** base:allocation was selected for the chosen export. */
  bool allocation() const { return allocation_; }

  /**
   * Takes bytes, as many as can be used now; returns how many. Stops when a reply waits in
   * `output`, at the end of the option; the rest belongs to the next call, or to the session.
   */
  size_t Feed(const uint8_t* bytes, size_t count);
  /** Bytes to send; the caller removes what it has sent. */
  std::string& output() { return output_; }

 private:
  void End(std::string reason);
  void TakeFlags();
  void TakeHeader();
  void TakeOption();
  void ExportName();
  void ListExports();
  void InfoOrGo();
  void Simple();
  void MetaContext();
  void SendExportInfo(const Export& found, const std::vector<uint16_t>& wanted);
  void Reply(uint32_t type, std::string_view data);
  void Refuse(uint32_t type, std::string_view message) { Reply(type, message); }
  uint16_t FlagsOf(const Export& found) const;

  const Exports& exports_;
  State state_ = State::Flags;
  std::string reason_;
  std::string output_;
  std::string input_;  // The bytes of the current step that are here.
  size_t wanted_ = 4;  // How many that step needs.
  bool zeroes_ = true;
  uint32_t option_ = 0;
  uint32_t options_ = 0;
  Mode mode_ = Mode::Simple;
  std::string name_;
  bool allocation_ = false;
  std::string allocation_name_;  // The export for which it was selected.
};

}  // namespace ovs::nbd
