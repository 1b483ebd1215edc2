// SPDX-License-Identifier: Apache-2.0
// The core without Node: the pool, the table of expectations, the parser fed in pieces of every
// size and with every damage, and two hubs that talk over real sockets. Exits 0 when all holds,
// aborts where not.

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "common/check.h"
#include "common/crc32c.h"
#include "transport/core/hub.h"

using namespace ovs::transport;
using ovs::wire::FrameHeader;

namespace {

constexpr size_t kPage = Pool::kPageBytes;

void TestPool() {
  Pool pool(8 * kPage, 16 * kPage);
  OVS_CHECK(pool.Take(17 * kPage) == 0 && pool.free_bytes() == 16 * kPage);
  const size_t a = pool.Take(1);
  const size_t b = pool.Take(3 * kPage);
  const size_t c = pool.Take(kPage + 1);
  OVS_CHECK(a == 8 * kPage && b == 9 * kPage && c == 12 * kPage);
  OVS_CHECK(!pool.Give(10 * kPage) && !pool.Give(0) && !pool.Give(a + 1) && !pool.Give(99 * kPage));
  OVS_CHECK(pool.Give(b) && !pool.Give(b));
  OVS_CHECK(pool.Take(2 * kPage) == b);
  OVS_CHECK(pool.Give(a) && pool.Give(c) && pool.Give(b));
  OVS_CHECK(pool.Take(16 * kPage) == 8 * kPage);
}

void TestPoolAtRandom(std::mt19937_64& random) {
  Pool pool(kPage, 64 * kPage);
  std::map<size_t, size_t> taken;
  for (int i = 0; i < 20000; i++) {
    if (random() % 2 == 0) {
      const size_t bytes = 1 + random() % (9 * kPage);
      const size_t at = pool.Take(bytes);
      if (at == 0) continue;
      const size_t end = at + (bytes + kPage - 1) / kPage * kPage;
      OVS_CHECK(at >= kPage && end <= 65 * kPage);
      auto next = taken.lower_bound(at);
      OVS_CHECK(next == taken.end() || end <= next->first);
      OVS_CHECK(next == taken.begin() || std::prev(next)->second <= at);
      taken[at] = end;
    } else if (!taken.empty()) {
      auto victim = taken.lower_bound(random() % (65 * kPage));
      if (victim == taken.end()) victim = taken.begin();
      OVS_CHECK(pool.Give(victim->first));
      taken.erase(victim);
    }
  }
  for (const auto& [at, end] : taken) OVS_CHECK(pool.Give(at));
  OVS_CHECK(pool.free_bytes() == 64 * kPage && pool.Take(64 * kPage) == kPage);
}

void TestExpectations(std::mt19937_64& random) {
  ExpectTable table;
  std::map<uint64_t, size_t> model;
  uint8_t memory[64];
  for (int i = 0; i < 50000; i++) {
    const uint64_t id = random() % 500;
    if (random() % 3 != 0) {
      Piece pieces[4];
      const size_t count = 1 + random() % 4;
      for (size_t p = 0; p < count; p++) pieces[p] = {memory, 1 + random() % 9};
      table.Put(id, pieces, count);
      model[id] = 0;
      for (size_t p = 0; p < count; p++) model[id] += pieces[p].bytes;
    } else {
      OVS_CHECK(table.Erase(id) == (model.erase(id) == 1));
    }
    OVS_CHECK(table.size() == model.size());
    const uint64_t other = random() % 500;
    const auto* entry = table.Find(other);
    OVS_CHECK((entry != nullptr) == model.contains(other));
    if (entry == nullptr) continue;
    size_t bytes = 0;
    for (size_t p = 0; p < entry->count; p++) bytes += entry->pieces()[p].bytes;
    OVS_CHECK(bytes == entry->bytes && bytes == model[other]);
  }
}

/// Places payloads in memory of its own and keeps what came.
struct Host final : FrameHost {
  struct Frame {
    FrameHeader header;
    std::string meta;
    std::string payload;
  };

  std::vector<Frame> frames;
  std::vector<std::vector<uint8_t>> memory;
  size_t places_left = SIZE_MAX;
  size_t frames_left = SIZE_MAX;

  Placed Place(const FrameHeader& header, std::vector<Piece>& into, size_t& offset) override {
    if (places_left == 0) return Placed::NoRoom;
    places_left--;
    // Two uneven pieces, and more room than is needed.
    const size_t first = header.payload_bytes / 3;
    memory.assign({std::vector<uint8_t>(first + 1), std::vector<uint8_t>(header.payload_bytes)});
    into.push_back({memory[0].data(), memory[0].size()});
    into.push_back({memory[1].data(), memory[1].size()});
    offset = 1;
    return Placed::Yes;
  }

  bool Deliver(const ParsedFrame& frame) override {
    if (frames_left == 0) return false;
    frames_left--;
    Frame kept = {*frame.header, {}, {}};
    kept.meta.assign(reinterpret_cast<const char*>(frame.meta), frame.header->meta_bytes);
    if (frame.header->payload_bytes > 0) {
      for (const auto& piece : memory) kept.payload.append(piece.begin(), piece.end());
      kept.payload.resize(frame.header->payload_bytes);
    }
    frames.push_back(kept);
    return true;
  }
};

std::string MakeFrame(uint64_t id, const std::string& meta, std::string payload) {
  const Piece piece = {reinterpret_cast<uint8_t*>(payload.data()), payload.size()};
  const FrameFields fields = {1, 1, 7, 3, id, 1234};
  const FrameHeader header = MakeHeader(fields, reinterpret_cast<const uint8_t*>(meta.data()),
                                        meta.size(), &piece, payload.empty() ? 0 : 1);
  return std::string(reinterpret_cast<const char*>(&header), sizeof header) + meta + payload;
}

std::string RandomText(std::mt19937_64& random, size_t bytes) {
  std::string text(bytes, '\0');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

Parser::Stop Feed(Parser& parser, const std::string& bytes, size_t& at, size_t most) {
  const size_t count = std::min(most, bytes.size() - at);
  // A copy of exactly that size: a read beyond it is found by the sanitizer.
  std::vector<uint8_t> piece(bytes.begin() + static_cast<long>(at),
                             bytes.begin() + static_cast<long>(at + count));
  size_t taken = 0;
  const Parser::Stop stop = parser.Consume(piece.data(), piece.size(), taken);
  at += taken;
  return stop;
}

void TestParserInPieces(std::mt19937_64& random) {
  std::string stream;
  std::vector<std::pair<std::string, std::string>> sent;
  for (uint64_t i = 0; i < 60; i++) {
    const size_t meta = i % 3 == 0 ? 0 : random() % 300;
    const size_t payload = i % 4 == 0 ? 0 : 1 + random() % 20000;
    sent.emplace_back(RandomText(random, meta), RandomText(random, payload));
    stream += MakeFrame(i, sent.back().first, sent.back().second);
  }
  for (const size_t most : {size_t{1}, size_t{63}, size_t{64}, size_t{1000}, stream.size()}) {
    Host host;
    Parser parser(host);
    host.places_left = host.frames_left = 0;
    size_t at = 0;
    while (host.frames.size() < sent.size()) {
      iovec places[3];
      const int count = parser.Direct(places, 3);
      if (count > 0 && random() % 2 == 0) {
        // As a socket would: bytes go to their place at once.
        size_t done = 0;
        for (int i = 0; i < count; i++) {
          const size_t bytes = std::min(places[i].iov_len, stream.size() - at - done);
          std::memcpy(places[i].iov_base, stream.data() + at + done, bytes);
          done += bytes;
        }
        parser.DirectDone(done);
        at += done;
      }
      const Parser::Stop stop = Feed(parser, stream, at, 1 + random() % most);
      OVS_CHECK(stop != Parser::Stop::Broken);
      if (stop == Parser::Stop::NoRoom) host.places_left = random() % 2;
      if (stop == Parser::Stop::Full) host.frames_left = random() % 3;
    }
    OVS_CHECK(at == stream.size() && parser.between_frames());
    for (size_t i = 0; i < sent.size(); i++) {
      const Host::Frame& frame = host.frames[i];
      OVS_CHECK(frame.header.request_id == i && frame.header.operation == 7);
      OVS_CHECK(frame.meta == sent[i].first && frame.payload == sent[i].second);
    }
  }
}

Fault FaultOf(const std::string& bytes) {
  Host host;
  Parser parser(host);
  size_t at = 0;
  while (at < bytes.size()) {
    if (Feed(parser, bytes, at, bytes.size()) == Parser::Stop::Broken) return parser.fault();
  }
  return Fault::None;
}

/// Header bytes with a right checksum after a change.
std::string Resealed(std::string frame) {
  FrameHeader header;
  std::memcpy(&header, frame.data(), sizeof header);
  header.header_crc =
      ovs::Crc32c(reinterpret_cast<const uint8_t*>(&header), offsetof(FrameHeader, header_crc), 0);
  std::memcpy(frame.data(), &header, sizeof header);
  return frame;
}

void TestDamage() {
  const std::string good = MakeFrame(5, "some meta", std::string(10000, 'x'));
  OVS_CHECK(FaultOf(good) == Fault::None);
  for (size_t byte = 0; byte < good.size(); byte++) {
    std::string bad = good;
    bad[byte] = static_cast<char>(bad[byte] ^ (1 << (byte % 8)));
    OVS_CHECK(FaultOf(bad) != Fault::None);
  }
  const auto changed = [&](size_t at, uint32_t value) {
    std::string bad = good;
    std::memcpy(bad.data() + at, &value, sizeof value);
    return FaultOf(Resealed(bad));
  };
  OVS_CHECK(changed(offsetof(FrameHeader, reserved), 1) == Fault::Reserved);
  OVS_CHECK(changed(offsetof(FrameHeader, reserved1) + 8, 1) == Fault::Reserved);
  OVS_CHECK(changed(offsetof(FrameHeader, kind) - 2, 0x0003'0001u) == Fault::Kind);
  OVS_CHECK(changed(offsetof(FrameHeader, request_id) + 4, 1u << 21) == Fault::Kind);
  OVS_CHECK(changed(offsetof(FrameHeader, meta_bytes), 65537) == Fault::Length);
  OVS_CHECK(changed(offsetof(FrameHeader, payload_bytes), (66 << 20) + 1) == Fault::Length);
  OVS_CHECK(changed(offsetof(FrameHeader, payload_bytes), 9999) == Fault::Length);
  OVS_CHECK(changed(offsetof(FrameHeader, length), 1) == Fault::Length);
  OVS_CHECK(changed(offsetof(FrameHeader, version), 2) == Fault::Version);
}

/// A hub with memory of its own, driven as the binding drives it.
struct Side {
  static constexpr size_t kArena = 64 * kPage;
  static constexpr size_t kPoolAt = 32 * kPage;
  std::vector<uint8_t> arena = std::vector<uint8_t>(kArena);
  std::vector<uint64_t> shared = std::vector<uint64_t>(kSharedBytes / 8);
  Hub hub{arena.data(), kArena, kPoolAt, kArena - kPoolAt, bytes()};
  size_t words = 0;

  uint8_t* bytes() { return reinterpret_cast<uint8_t*>(shared.data()); }
  const uint32_t* event(size_t i) {
    return reinterpret_cast<uint32_t*>(bytes() + kEventsAt) + i * kEventWords;
  }
  void Log(std::initializer_list<uint32_t> entry) {
    for (const uint32_t word : entry) {
      reinterpret_cast<uint32_t*>(bytes() + kLogAt)[words++] = word;
    }
  }
  size_t Apply() {
    const size_t count = hub.Apply(words, true);
    words = 0;
    return count;
  }
  void Send(uint32_t connection, uint32_t kind, uint32_t id, uint32_t at, uint32_t count,
            uint32_t token) {
    Log({static_cast<uint32_t>(LogKind::Send), connection, kind, 9, id, 0, 0, 4,
         count > 0 ? 1u : 0u, token});
    if (count > 0) Log({at, count});
    Log({0x6174656d});  // "meta"
  }
  /// Wakes until there are events; returns how many.
  size_t Wait() {
    for (int i = 0; i < 1000; i++) {
      pollfd ready = {hub.fd(), POLLIN, 0};
      OVS_CHECK(poll(&ready, 1, 10000) == 1);
      const size_t count = hub.Wake();
      if (count > 0) return count;
    }
    OVS_CHECK(false);
    return 0;
  }
  const uint32_t* WaitFor(EventKind kind) {
    OVS_CHECK(Wait() == 1 && event(0)[0] == static_cast<uint32_t>(kind));
    return event(0);
  }
};

std::string SocketPath() {
  const char* folder = std::getenv("TMPDIR");
  return std::string(folder != nullptr ? folder : "/tmp") + "/ovs-transport-test-" +
         std::to_string(getpid());
}

void TestHubs() {
  Side server, client;
  const std::string path = SocketPath();
  const int64_t listener = server.hub.ListenUnix(path);
  OVS_CHECK(listener >= 0 && client.hub.ListenUnix(path) == -EADDRINUSE);
  OVS_CHECK(server.Wait() == 1 && server.event(0)[0] == static_cast<uint32_t>(EventKind::Accepted));
  server.WaitFor(EventKind::Closed);  // The one that asked whether somebody lives here.
  const int64_t made = client.hub.ConnectUnix(path);
  OVS_CHECK(made > 0);
  const auto up = static_cast<uint32_t>(made);
  OVS_CHECK(client.WaitFor(EventKind::Connected)[1] == up);
  const uint32_t down = server.WaitFor(EventKind::Accepted)[1];
  client.Log({static_cast<uint32_t>(LogKind::Reading), up, 1});

  // A request whose payload takes the whole pool; the next one waits for room.
  client.Send(up, 0, 1, kPage, Side::kArena - Side::kPoolAt, 11);
  client.Send(up, 0, 2, kPage, 100, 12);
  size_t sent = client.Apply();
  while (sent < 2) {
    if (server.hub.pool_free_bytes() > 0) server.hub.Wake();
    const size_t count = client.hub.Wake();
    for (size_t i = 0; i < count; i++) {
      OVS_CHECK(client.event(i)[0] == static_cast<uint32_t>(EventKind::Sent));
    }
    sent += count;
  }
  while (server.event(0)[0] != static_cast<uint32_t>(EventKind::Frame)) server.hub.Wake();
  const uint32_t pooled = server.event(0)[9];
  OVS_CHECK(server.event(0)[4] == 1 && pooled == Side::kPoolAt && server.event(0)[8] == 4);
  OVS_CHECK(server.hub.Wake() == 0 && server.hub.pool_free_bytes() == 0);
  server.Log({static_cast<uint32_t>(LogKind::Release), pooled});
  OVS_CHECK(server.Apply() == 0);
  const uint32_t* frame = server.WaitFor(EventKind::Frame);
  OVS_CHECK(frame[4] == 2 && frame[10] == 100);

  // The answer lands where it is expected; one that is longer ends the connection.
  client.Log({static_cast<uint32_t>(LogKind::Expect), up, 2, 0, 2, 5, 10, 4000, 96});
  client.Log({static_cast<uint32_t>(LogKind::Expect), up, 3, 0, 1, 5, 10});
  client.Apply();
  std::memset(server.arena.data() + kPage, 'a', 100);
  server.Send(down, 1, 2, kPage, 100, 21);
  OVS_CHECK(server.Apply() == 1);
  frame = client.WaitFor(EventKind::Frame);
  OVS_CHECK(frame[9] == 0 && frame[10] == 100 && client.arena[5] == 'a' && client.arena[15] == 0);
  OVS_CHECK(client.arena[4000] == 'a' && client.arena[4089] == 'a' && client.arena[4090] == 0);
  OVS_CHECK(!client.hub.Forget(up, 77));
  server.Send(down, 1, 3, kPage, 100, 22);
  server.Apply();
  frame = client.WaitFor(EventKind::Closed);
  OVS_CHECK(frame[1] == up && frame[2] == static_cast<uint32_t>(Fault::LongerThanExpected));
  frame = server.WaitFor(EventKind::Closed);
  OVS_CHECK(frame[1] == down && frame[2] == static_cast<uint32_t>(Fault::PeerClosed));

  // A dead connection gives tokens back at once, and its id means nothing any more.
  server.Send(down, 1, 3, kPage, 100, 23);
  OVS_CHECK(server.Apply() == 1);
  server.hub.Close(down);
  server.hub.CloseListener(static_cast<uint32_t>(listener));
  OVS_CHECK(access(path.c_str(), F_OK) != 0 && server.hub.open_count() == 0);
  OVS_CHECK(client.hub.ConnectUnix(path) == -ENOENT);
}

}  // namespace

int main() {
  const char* given = std::getenv("SEED");
  const uint64_t seed =
      given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device()();
  std::printf("SEED=%llu\n", static_cast<unsigned long long>(seed));
  std::mt19937_64 random(seed);
  TestPool();
  TestPoolAtRandom(random);
  TestExpectations(random);
  TestParserInPieces(random);
  TestDamage();
  TestHubs();
  std::puts("ok");
  return 0;
}
