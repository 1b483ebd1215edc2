// SPDX-License-Identifier: Apache-2.0
// libFuzzer target: any bytes over a negotiation and, behind it, a session. The first 16 bytes
// choose how the wire cuts them, when the target completes, and when replies are taken; the 17th
// chooses the style, and whether the rest goes over the wire as it is or is a script of options
// and requests with the right magic numbers. What must hold: nothing is read or written outside
// (sanitizers), no assertion fails, and at the end every slot is free again.

#include "nbd/core/negotiation.h"
#include "nbd/test/rig.h"

using namespace ovs::nbd;

namespace {

constexpr uint32_t kSlots = 5;
constexpr size_t kDiskBytes = 400 << 10;
constexpr uint8_t kNegotiates = 0x80;
constexpr uint8_t kScript = 0x40;
constexpr size_t kWireMax = 1 << 20;

/** Takes decisions from a short string, again and again. */
class Chooser {
 public:
  Chooser(const uint8_t* bytes, size_t count) : bytes_(bytes), count_(count) {}
  uint8_t Next() { return bytes_[at_++ % count_]; }

 private:
  const uint8_t* bytes_;
  size_t count_;
  size_t at_ = 0;
};

std::string Big32(uint32_t value) {
  uint8_t raw[4];
  StoreBe32(raw, value);
  return std::string(reinterpret_cast<char*>(raw), 4);
}

/** Options out of a script: a number, what kind of data, how much of it. */
std::string Options(const uint8_t* bytes, size_t count, size_t* used) {
  std::string wire = Big32(bytes[0] & 3);
  const std::string name = Big32(3) + "vd0";
  const std::string query = Big32(1) + Big32(15) + "base:allocation";
  size_t at = 1;
  while (at + 3 <= count && bytes[at] != 0xff) {
    const uint32_t option = bytes[at] % 13;
    const size_t length = std::min<size_t>(bytes[at + 2], count - at - 3);
    const std::string raw(reinterpret_cast<const char*>(bytes) + at + 3, length);
    const std::string shapes[] = {"", raw, name + raw, name + query, name + std::string(2, '\0')};
    const std::string& data = shapes[bytes[at + 1] % 5];
    wire += std::string("IHAVEOPT") + Big32(option) + Big32(static_cast<uint32_t>(data.size()));
    wire += data;
    at += 3 + (bytes[at + 1] % 5 == 1 || bytes[at + 1] % 5 == 2 ? length : 0);
  }
  *used = std::min(at + 1, count);
  return wire;
}

/** Requests out of a script: type, flags, offset and length; writes carry what they announce. */
std::string Requests(const uint8_t* bytes, size_t count, Mode mode) {
  std::string wire;
  for (size_t at = 0; at + 8 <= count && wire.size() < kWireMax; at += 8) {
    const uint8_t* b = bytes + at;
    const auto flags = static_cast<uint16_t>((b[1] & 0x3f) | ((b[1] & 0x80) << 1));
    const uint16_t type = b[0] % 9;
    const uint64_t offset = b[2] | (b[3] << 8) | (b[4] << 16);
    const uint64_t length = b[5] | (b[6] << 8) | ((b[7] & 7) << 16);
    wire += Request(mode, flags, type, at, offset, length);
    const bool carries =
        type == kCmdWrite || (mode == Mode::Extended && (flags & kCmdFlagPayloadLen) != 0);
    if (carries) wire.append(length, static_cast<char>(b[0]));
  }
  return wire;
}

/** The negotiation; answers true and how many bytes it used when it wants a session. */
bool Negotiate(const std::string& wire, Chooser& chooser, Mode* mode, size_t* used) {
  static const Exports exports = {{{"vd0", "a disk", kDiskBytes, 0x145}, {"b", "", 4096, 0x147}},
                                  1 << 18};
  Negotiation negotiation(exports);
  *used = 0;
  while (*used < wire.size()) {
    negotiation.output().clear();
    const size_t piece = std::min<size_t>(wire.size() - *used, size_t{chooser.Next()} + 1);
    const auto* bytes = reinterpret_cast<const uint8_t*>(wire.data()) + *used;
    const size_t took = negotiation.Feed(bytes, piece);
    OVS_CHECK(took <= piece);
    *used += took;
    if (negotiation.state() == Negotiation::State::Ended) return false;
    if (negotiation.state() != Negotiation::State::Done) continue;
    OVS_CHECK(exports.Find(negotiation.name()) != nullptr);
    *mode = negotiation.mode();
    return true;
  }
  return false;
}

void Step(Rig& rig, Session& session, uint8_t choice) {
  rig.Collect();
  if ((choice & 1) != 0 && !rig.held.empty()) {
    const uint32_t errors[] = {kOk, kOk, kOk, kEio};
    rig.Finish(choice % rig.held.size(), errors[(choice >> 1) & 3]);
  }
  if ((choice & 8) != 0) Collect(session, size_t{choice} * 3001 + 1);
  if (choice == 0xee) session.Drain();
  rig.engine->Pump();
}

void Transmit(const std::string& wire, Chooser& chooser, Mode mode) {
  // Every run leaves it as it found it, which is what is checked.
  static Rig* rig = new Rig(kSlots, kDiskBytes);
  rig->extents = {4096, 0, 3, 8192, 0, 0, 0xffffffff, 0xff, 1};
  {
    Session session(*rig->engine, 1, kRigTarget, mode, (chooser.Next() & 1) != 0);
    size_t used = 0;
    uint32_t idle = 0;
    while (used < wire.size() && !session.finished() && idle < 64) {
      const size_t piece = std::min<size_t>(wire.size() - used, (size_t{chooser.Next()} << 7) + 1);
      const auto* bytes = reinterpret_cast<const uint8_t*>(wire.data()) + used;
      const size_t took = Deliver(session, bytes, piece);
      used += took;
      idle = took > 0 ? 0 : idle + 1;
      Step(*rig, session, chooser.Next());
    }
    if ((chooser.Next() & 1) != 0) {
      rig->Serve();
      Collect(session, SIZE_MAX);
      rig->engine->Pump();
    }
  }
  rig->Collect();
  while (!rig->held.empty()) rig->Finish(0, kOk);
  OVS_CHECK(rig->engine->free() == kSlots);
  OVS_CHECK(rig->engine->waiting() == 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  if (count < 18) return 0;
  Chooser chooser(bytes, 16);
  const uint8_t style = bytes[16];
  auto mode = static_cast<Mode>(style % 3);
  bytes += 17;
  count -= 17;
  size_t used = 0;
  if ((style & kNegotiates) != 0) {
    const bool script = (style & kScript) != 0;
    const std::string wire = script ? Options(bytes, count, &used)
                                    : std::string(reinterpret_cast<const char*>(bytes), count);
    size_t read = 0;
    if (!Negotiate(wire, chooser, &mode, &read)) return 0;
    if (!script) used = read;
  }
  const std::string wire =
      (style & kScript) != 0
          ? Requests(bytes + used, count - used, mode)
          : std::string(reinterpret_cast<const char*>(bytes) + used, count - used);
  Transmit(wire, chooser, mode);
  return 0;
}
