// SPDX-License-Identifier: Apache-2.0
// The core without Node: negotiation and sessions fed whole and byte by byte, admission in order,
// every refusal, and slots that all come back. Exits 0 when all holds, aborts where not.

#include <isa-l/crc.h>

#include <cstdio>

#include "nbd/core/negotiation.h"
#include "nbd/test/rig.h"

using namespace ovs::nbd;

namespace {

constexpr uint64_t kCookie = 0x1122334455667788;

std::string Big(uint64_t value, int bytes) {
  std::string text;
  for (int i = bytes - 1; i >= 0; i--) text.push_back(static_cast<char>(value >> (8 * i)));
  return text;
}

std::string CookieBytes() { return std::string(reinterpret_cast<const char*>(&kCookie), 8); }

std::string SimpleReply(uint32_t error) {
  return Big(kSimpleReplyMagic, 4) + Big(error, 4) + CookieBytes();
}

std::string Pattern(size_t bytes, uint32_t seed) {
  std::string text(bytes, '\0');
  for (size_t i = 0; i < bytes; i++) {
    seed = seed * 1664525 + 1013904223;
    text[i] = static_cast<char>(seed >> 24);
  }
  return text;
}

/** Sends `input` in pieces of `step`, serving in between; answers all replies. */
std::string Talk(Rig& rig, Session& session, const std::string& input, size_t step) {
  std::string output;
  size_t sent = 0;
  while (sent < input.size() && session.wants_input()) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(input.data()) + sent;
    sent += Deliver(session, bytes, std::min(step, input.size() - sent));
    rig.Serve();
    output += Collect(session, SIZE_MAX);
    rig.engine->Pump();
  }
  return output;
}

/** One request in a fresh session; answers the replies. The slots must all come back. */
std::string Ask(Rig& rig, Mode mode, const std::string& input, bool allocation = true) {
  Session session(*rig.engine, 1, kRigTarget, mode, allocation);
  const std::string output = Talk(rig, session, input, SIZE_MAX);
  OVS_CHECK(session.in_flight() == 0);
  OVS_CHECK(rig.engine->free() == rig.engine->slots());
  return output;
}

void TestParts() {
  OVS_CHECK(Engine::PartsOf(0, 1) == 1);
  OVS_CHECK(Engine::PartsOf(4095, kPartBytes) == 1);
  OVS_CHECK(Engine::PartsOf(0, kPartBytes + 1) == 2);
  OVS_CHECK(Engine::PartsOf(1, kPartBytes + 1) == 2);
  OVS_CHECK(Engine::PartsOf(0, kRequestBytesMax) == 256);
  OVS_CHECK(Engine::PartsOf(1, kRequestBytesMax) == 257);
  OVS_CHECK(Engine::PartsOf(4095, kRequestBytesMax) == 257);
}

void TestSplitAtEveryByte() {
  const std::string data = Pattern(10000, 7);
  const std::string input = Request(Mode::Simple, 0, kCmdWrite, kCookie, 5000, data.size()) + data +
                            Request(Mode::Simple, 0, kCmdFlush, kCookie, 0, 0) +
                            Request(Mode::Simple, 0, kCmdRead, kCookie, 5001, 9000) +
                            Request(Mode::Simple, 0, kCmdDisconnect, kCookie, 0, 0);
  const std::string expected =
      SimpleReply(0) + SimpleReply(0) + SimpleReply(0) + data.substr(1, 9000);
  for (size_t step : {size_t{1}, size_t{2}, size_t{3}, size_t{27}, size_t{28}, size_t{29},
                      size_t{4096}, size_t{8192}, SIZE_MAX}) {
    Rig rig(8, 64 << 10);
    Session session(*rig.engine, 1, kRigTarget, Mode::Simple, false);
    OVS_CHECK(Talk(rig, session, input, step) == expected);
    OVS_CHECK(session.finished());
  }
}

void TestChecksums() {
  Rig rig(4, 1 << 20);
  const std::string data = Pattern(3 * kClusterBytes, 9);
  Session session(*rig.engine, 1, kRigTarget, Mode::Simple, false);
  const std::string input =
      Request(Mode::Simple, 0, kCmdWrite, kCookie, kClusterBytes - 10, data.size()) + data;
  Deliver(session, reinterpret_cast<const uint8_t*>(input.data()), input.size());
  rig.Collect();
  OVS_CHECK(rig.held.size() == 1);
  const uint32_t slot = rig.held[0];
  OVS_CHECK(rig.crc(slot, 0) == 0 && rig.crc(slot, 3) == 0);
  std::string cluster = data.substr(10, kClusterBytes);
  const uint32_t crc =
      ~crc32_iscsi(reinterpret_cast<unsigned char*>(cluster.data()), kClusterBytes, 0xffffffff);
  OVS_CHECK(rig.crc(slot, 1) == crc);
  rig.Finish(0, kOk);
}

void TestLargeRequests() {
  for (uint64_t offset : {uint64_t{0}, uint64_t{1}, uint64_t{4095}, uint64_t{65536}}) {
    Rig rig(300, 48 << 20);
    const std::string data = Pattern(kRequestBytesMax, static_cast<uint32_t>(offset));
    const std::string input =
        Request(Mode::Structured, 0, kCmdWrite, kCookie, offset, data.size()) + data +
        Request(Mode::Structured, kCmdFlagDf, kCmdRead, kCookie, offset, data.size());
    const std::string output = Ask(rig, Mode::Structured, input);
    const std::string chunk = Big(kStructuredReplyMagic, 4) + Big(1, 2) + Big(1, 2) +
                              CookieBytes() + Big(8 + data.size(), 4) + Big(offset, 8);
    OVS_CHECK(output == SimpleReply(0) + chunk + data);
  }
}

/** Three slots, three sessions: who came first is served first, also when it needs more. */
void TestAdmissionInOrder() {
  Rig rig(3, 1 << 20);
  OVS_CHECK(rig.engine->request_bytes_max() == 2 * kPartBytes);
  Session first(*rig.engine, 1, kRigTarget, Mode::Simple, false);
  Session second(*rig.engine, 2, kRigTarget, Mode::Simple, false);
  Session third(*rig.engine, 3, kRigTarget, Mode::Simple, false);
  auto send = [](Session& session, const std::string& input) {
    return Deliver(session, reinterpret_cast<const uint8_t*>(input.data()), input.size());
  };
  const std::string small = Request(Mode::Simple, 0, kCmdRead, kCookie, 0, 512);
  const std::string large = Request(Mode::Simple, 0, kCmdRead, kCookie, 0, 2 * kPartBytes);
  send(first, small + small);
  send(second, large + small);
  // While somebody waits, no more is read than can be judged.
  OVS_CHECK(send(third, small + small) == kRequestBytes);
  // One slot is free, but it is the second one's turn.
  OVS_CHECK(rig.engine->free() == 1);
  OVS_CHECK(rig.engine->waiting() == 2);
  OVS_CHECK(second.state() == Session::State::Waiting && !second.wants_input());
  rig.Collect();
  rig.Finish(0, kOk);
  OVS_CHECK(rig.engine->free() == 1);  // Its reply has not been sent.
  Collect(first, 16 + 511);
  rig.engine->Pump();
  OVS_CHECK(second.state() == Session::State::Waiting);
  Collect(first, 1);
  rig.engine->Pump();
  OVS_CHECK(rig.engine->free() == 0);
  OVS_CHECK(second.state() == Session::State::Waiting);  // For its next request.
  OVS_CHECK(rig.engine->waiting() == 2);
  for (int i = 0; i < 4; i++) {
    rig.Serve();
    Collect(first, SIZE_MAX);
    Collect(second, SIZE_MAX);
    Collect(third, SIZE_MAX);
    rig.engine->Pump();
  }
  OVS_CHECK(rig.engine->counters().requests == 5);
  OVS_CHECK(rig.engine->free() == 3 && rig.engine->waiting() == 0);
}

void TestRefusals() {
  Rig rig(4, 1 << 20);
  const uint64_t size = 1 << 20;
  struct Case {
    uint16_t flags, type;
    uint64_t offset, bytes;
    uint32_t error;
  };
  const Case cases[] = {
      {0, kCmdRead, size - 1, 2, kEinval},
      {0, kCmdRead, UINT64_MAX, 1, kEinval},
      {0, kCmdRead, UINT64_MAX, UINT32_MAX, kEinval},
      {0, kCmdWrite, size, 1, kEnospc},
      {0, kCmdWriteZeroes, size - 4096, 8192, kEnospc},
      {0, kCmdTrim, size - 4096, 8192, kEinval},
      {0, kCmdCache, size, 1, kEinval},
      {0, kCmdFlush, 1, 0, kEinval},
      {0, kCmdFlush, 0, 1, kEinval},
      {0, kCmdBlockStatus, 0, 0, kEinval},
      {0, 8, 0, 0, kEinval},
      {0, 0xffff, 0, 0, kEinval},
      {kCmdFlagDf, kCmdRead, 0, 1, kEinval},
      {kCmdFlagNoHole, kCmdWrite, 0, 1, kEinval},
      {kCmdFlagReqOne, kCmdRead, 0, 1, kEinval},
      {kCmdFlagPayloadLen, kCmdWrite, 0, 1, kEinval},
      {0x8000, kCmdTrim, 0, 1, kEinval},
      {0, kCmdRead, 0, 512 << 10, kEinval},
      {0, kCmdWrite, 0, 512 << 10, kEinval},
      {0, kCmdRead, 0, 0, kOk},
      {kCmdFlagFua, kCmdWrite, size, 0, kOk},
      {0, kCmdTrim, 5, 0, kOk},
  };
  for (const Case& c : cases) {
    std::string input = Request(Mode::Simple, c.flags, c.type, kCookie, c.offset, c.bytes);
    if (c.type == kCmdWrite) input += std::string(c.bytes, 'x');
    OVS_CHECK(Ask(rig, Mode::Simple, input) == SimpleReply(c.error));
  }
  const std::string write = Request(Mode::Simple, 0, kCmdWrite, kCookie, 0, 4) + "abcd";
  rig.engine->SetTarget(kRigTarget, size, true, true);
  OVS_CHECK(Ask(rig, Mode::Simple, write) == SimpleReply(kEperm));
  rig.engine->SetTarget(kRigTarget, size, false, false);
  OVS_CHECK(Ask(rig, Mode::Simple, write) == SimpleReply(kEshutdown));
  rig.engine->ForgetTarget(kRigTarget);
  OVS_CHECK(Ask(rig, Mode::Simple, write) == SimpleReply(kEshutdown));
}

void TestEnds() {
  Rig rig(4, 1 << 20);
  const std::string bad = std::string("garbage that is no request..", 28);
  Session wrong(*rig.engine, 1, kRigTarget, Mode::Simple, false);
  Talk(rig, wrong, bad, SIZE_MAX);
  OVS_CHECK(wrong.finished() && wrong.reason() != nullptr);
  Session extended(*rig.engine, 1, kRigTarget, Mode::Extended, false);
  Talk(rig, extended, Request(Mode::Simple, 0, kCmdRead, 1, 0, 1) + "\1\2\3\4", SIZE_MAX);
  OVS_CHECK(extended.finished() && extended.reason() != nullptr);
  Session endless(*rig.engine, 1, kRigTarget, Mode::Extended, false);
  Talk(rig, endless, Request(Mode::Extended, kCmdFlagPayloadLen, kCmdWrite, 1, 0, UINT64_MAX), 64);
  OVS_CHECK(endless.finished() && endless.reason() != nullptr);
  // A session that goes away with a request at the target and another half received.
  auto gone = std::make_unique<Session>(*rig.engine, 1, kRigTarget, Mode::Simple, false);
  const std::string input = Request(Mode::Simple, 0, kCmdRead, kCookie, 0, 512) +
                            Request(Mode::Simple, 0, kCmdWrite, kCookie, 0, 4096) + "half";
  Deliver(*gone, reinterpret_cast<const uint8_t*>(input.data()), input.size());
  rig.Collect();
  OVS_CHECK(rig.engine->free() == 2);
  gone.reset();
  OVS_CHECK(rig.engine->free() == 3);
  rig.Finish(0, kOk);
  OVS_CHECK(rig.engine->free() == 4);
  // A drained session answers what is in flight and drops what has not arrived.
  Session drained(*rig.engine, 1, kRigTarget, Mode::Simple, false);
  Deliver(drained, reinterpret_cast<const uint8_t*>(input.data()), input.size());
  drained.Drain();
  OVS_CHECK(!drained.finished() && !drained.wants_input());
  rig.Serve();
  OVS_CHECK(Collect(drained, SIZE_MAX).size() == 16 + 512);
  OVS_CHECK(drained.finished() && rig.engine->free() == 4);
}

void TestBlockStatus() {
  Rig rig(4, 1 << 20);
  rig.extents = {4096, 0, 0, 4096, 0, 0, 8192, 0, 3, 1 << 20, 0, 0};
  const std::string ask = Request(Mode::Structured, 0, kCmdBlockStatus, kCookie, 0, 65536);
  std::string head = Big(kStructuredReplyMagic, 4) + Big(1, 2) + Big(kReplyBlockStatus, 2) +
                     CookieBytes() + Big(4 + 3 * 8, 4) + Big(kAllocationContext, 4);
  // Neighbours are joined, the last one is cut to the range.
  OVS_CHECK(Ask(rig, Mode::Structured, ask) ==
            head + Big(8192, 4) + Big(0, 4) + Big(8192, 4) + Big(3, 4) + Big(49152, 4) + Big(0, 4));
  const std::string one =
      Request(Mode::Extended, kCmdFlagReqOne, kCmdBlockStatus, kCookie, 4096, 65536);
  head = Big(kExtendedReplyMagic, 4) + Big(1, 2) + Big(kReplyBlockStatusExt, 2) + CookieBytes() +
         Big(4096, 8) + Big(8 + 16, 8) + Big(kAllocationContext, 4) + Big(1, 4);
  OVS_CHECK(Ask(rig, Mode::Extended, one) == head + Big(8192, 8) + Big(0, 8));
  OVS_CHECK(Ask(rig, Mode::Simple, ask, false) == SimpleReply(kEinval));
  // The most that a slot can hold.
  rig.extents.clear();
  for (uint32_t i = 0; i < kSlotBytes / 16; i++)
    rig.extents.insert(rig.extents.end(), {1, 0, i & 1});
  const std::string many = Request(Mode::Extended, 0, kCmdBlockStatus, kCookie, 0, 1 << 20);
  OVS_CHECK(Ask(rig, Mode::Extended, many).size() == 32 + 8 + kSlotBytes);
}

/** Everything a client sends in one negotiation, cut in pieces of `step`. */
struct Outcome {
  std::string output;
  Negotiation::State state;
  std::string name;
  Mode mode;
  bool allocation;
  size_t unread;
};

Outcome Negotiate(const Exports& exports, const std::string& input, size_t step) {
  Negotiation negotiation(exports);
  Outcome outcome = {};
  size_t used = 0;
  size_t stuck = 0;
  while (used < input.size() && stuck < 2) {
    outcome.output += negotiation.output();
    negotiation.output().clear();
    const auto* bytes = reinterpret_cast<const uint8_t*>(input.data()) + used;
    const size_t took = negotiation.Feed(bytes, std::min(step, input.size() - used));
    stuck = took == 0 ? stuck + 1 : 0;
    used += took;
  }
  outcome.output += negotiation.output();
  outcome.state = negotiation.state();
  outcome.name = negotiation.name();
  outcome.mode = negotiation.mode();
  outcome.allocation = negotiation.allocation();
  outcome.unread = input.size() - used;
  return outcome;
}

std::string Opt(uint32_t option, const std::string& data) {
  return Big(kOptionMagic, 8) + Big(option, 4) + Big(data.size(), 4) + data;
}

std::string Rep(uint32_t option, uint32_t type, const std::string& data) {
  return Big(kOptionReplyMagic, 8) + Big(option, 4) + Big(type, 4) + Big(data.size(), 4) + data;
}

std::string Named(const std::string& name, const std::string& rest) {
  return Big(name.size(), 4) + name + rest;
}

void TestNegotiation() {
  const Exports exports = {{{"vd0", "first", 4096, 0x145}, {"vd1", "", 8192, 0x145}}, 1 << 25};
  const std::string query = "base:allocation";
  const std::string input = Big(3, 4) + Opt(kOptList, "") + Opt(99, "what") +
                            Opt(kOptStartTls, "") + Opt(kOptStructuredReply, "") +
                            Opt(kOptSetMetaContext, Named("vd1", Big(1, 4) + Named(query, ""))) +
                            Opt(kOptGo, Named("vd1", Big(0, 2))) + "next";
  const Outcome whole = Negotiate(exports, input, SIZE_MAX);
  OVS_CHECK(whole.state == Negotiation::State::Done);
  OVS_CHECK(whole.name == "vd1" && whole.mode == Mode::Structured && whole.allocation);
  OVS_CHECK(whole.unread == 4);
  const std::string listed = Rep(kOptList, kRepServer, Named("vd0", "first")) +
                             Rep(kOptList, kRepServer, Named("vd1", "")) +
                             Rep(kOptList, kRepAck, "");
  OVS_CHECK(whole.output.find(listed) == 18);
  OVS_CHECK(whole.output.find(Rep(kOptGo, kRepInfo, Big(0, 2) + Big(8192, 8) + Big(0x1c5, 2))) !=
            std::string::npos);
  for (size_t step = 1; step < 40; step++) {
    const Outcome pieces = Negotiate(exports, input, step);
    OVS_CHECK(pieces.output == whole.output && pieces.state == whole.state);
    OVS_CHECK(pieces.name == whole.name && pieces.allocation);
  }
  const Outcome old = Negotiate(exports, Big(0, 4) + Opt(kOptExportName, ""), SIZE_MAX);
  OVS_CHECK(old.state == Negotiation::State::Done && old.name == "vd0");
  OVS_CHECK(old.output ==
            whole.output.substr(0, 18) + Big(4096, 8) + Big(0x145, 2) + std::string(124, '\0'));
  for (const std::string& bad :
       {Big(4, 4), Big(3, 4) + std::string(16, 'x'), Big(3, 4) + Opt(kOptExportName, "nobody"),
        Big(3, 4) + Opt(kOptAbort, ""),
        Big(3, 4) + Big(kOptionMagic, 8) + Big(7, 4) + Big(0x7fffffff, 4)}) {
    OVS_CHECK(Negotiate(exports, bad, SIZE_MAX).state == Negotiation::State::Ended);
  }
}

}  // namespace

int main() {
  TestParts();
  TestSplitAtEveryByte();
  TestChecksums();
  TestLargeRequests();
  TestAdmissionInOrder();
  TestRefusals();
  TestEnds();
  TestBlockStatus();
  TestNegotiation();
  std::puts("nbd: all tests passed");
  return 0;
}
