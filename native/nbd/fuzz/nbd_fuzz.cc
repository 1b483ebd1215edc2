// SPDX-License-Identifier: Apache-2.0
// libFuzzer target: any bytes over a negotiation and, behind it, a session. The first bytes choose
// how the wire cuts them, when the target completes, and when replies are taken. What must hold:
// nothing is read or written outside (sanitizers), and at the end every slot is free again.

#include "nbd/core/negotiation.h"
#include "nbd/test/rig.h"

using namespace ovs::nbd;

namespace {

constexpr uint32_t kSlots = 6;
constexpr size_t kDiskBytes = 1 << 20;

/** Takes decisions from a short string, again and again. */
class Chooser {
 public:
  Chooser(const uint8_t* bytes, size_t count) : bytes_(bytes), count_(count) {}
  uint8_t Next() {
    if (count_ == 0) return 0;
    return bytes_[at_++ % count_];
  }

 private:
  const uint8_t* bytes_;
  size_t count_;
  size_t at_ = 0;
};

/** The negotiation; answers how many bytes it used when it came to an end that wants a session. */
size_t Negotiate(const uint8_t* bytes, size_t count, Chooser& chooser, Mode* mode) {
  const Exports exports = {{{"vd0", "a disk", kDiskBytes, 0x145}, {"b", "", 4096, 0x147}}, 1 << 18};
  Negotiation negotiation(exports);
  size_t used = 0;
  while (used < count) {
    negotiation.output().clear();
    const size_t piece = std::min<size_t>(count - used, size_t{chooser.Next()} + 1);
    const size_t took = negotiation.Feed(bytes + used, piece);
    OVS_CHECK(took <= piece);
    used += took;
    if (negotiation.state() == Negotiation::State::Ended) return count;
    if (negotiation.state() == Negotiation::State::Done) {
      OVS_CHECK(exports.Find(negotiation.name()) != nullptr);
      *mode = negotiation.mode();
      return used;
    }
  }
  return count;
}

void Step(Rig& rig, Session& session, uint8_t choice) {
  rig.Collect();
  if ((choice & 1) != 0 && !rig.held.empty()) {
    const uint32_t errors[] = {kOk, kOk, kOk, kEio};
    rig.Finish(choice % rig.held.size(), errors[(choice >> 1) & 3]);
  }
  if ((choice & 8) != 0) Collect(session, size_t{choice} * 37 + 1);
  if (choice == 0xee) session.Drain();
  rig.engine->Pump();
}

void Transmit(const uint8_t* bytes, size_t count, Chooser& chooser, Mode mode) {
  Rig rig(kSlots, kDiskBytes);
  rig.extents = {4096, 0, 3, 8192, 0, 0, 0xffffffff, 0xff, 1};
  {
    Session session(*rig.engine, 1, kRigTarget, mode, (chooser.Next() & 1) != 0);
    size_t used = 0;
    uint32_t idle = 0;
    while (used < count && !session.finished() && idle < 64) {
      const size_t piece = std::min<size_t>(count - used, (size_t{chooser.Next()} << 3) + 1);
      const size_t took = Deliver(session, bytes + used, piece);
      used += took;
      idle = took > 0 ? 0 : idle + 1;
      Step(rig, session, chooser.Next());
    }
    if ((chooser.Next() & 1) != 0) {
      rig.Serve();
      Collect(session, SIZE_MAX);
      rig.engine->Pump();
    }
  }
  rig.Collect();
  while (!rig.held.empty()) rig.Finish(0, kOk);
  OVS_CHECK(rig.engine->free() == kSlots);
  OVS_CHECK(rig.engine->waiting() == 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  if (count < 17) return 0;
  Chooser chooser(bytes, 16);
  Mode mode = static_cast<Mode>(bytes[16] % 3);
  size_t used = 17;
  if ((bytes[16] & 0x80) != 0) used += Negotiate(bytes + used, count - used, chooser, &mode);
  Transmit(bytes + used, count - used, chooser, mode);
  return 0;
}
