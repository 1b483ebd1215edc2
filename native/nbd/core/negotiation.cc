// SPDX-License-Identifier: Apache-2.0
#include "nbd/core/negotiation.h"

#include <algorithm>

#include "common/check.h"

namespace ovs::nbd {

namespace {

constexpr std::string_view kAllocation = "base:allocation";
constexpr uint32_t kPreferredBytes = 4096;

void Append16(std::string& to, uint16_t value) {
  uint8_t raw[2];
  StoreBe16(raw, value);
  to.append(reinterpret_cast<char*>(raw), 2);
}
void Append32(std::string& to, uint32_t value) {
  uint8_t raw[4];
  StoreBe32(raw, value);
  to.append(reinterpret_cast<char*>(raw), 4);
}
void Append64(std::string& to, uint64_t value) {
  uint8_t raw[8];
  StoreBe64(raw, value);
  to.append(reinterpret_cast<char*>(raw), 8);
}

/** Reads an option's data from front to back; `ok` turns false at the first lack of bytes. */
struct Reader {
  std::string_view rest;
  bool ok = true;

  std::string_view Bytes(size_t count) {
    if (count > rest.size()) ok = false;
    if (!ok) return {};
    std::string_view taken = rest.substr(0, count);
    rest.remove_prefix(count);
    return taken;
  }
  uint32_t U32() {
    std::string_view raw = Bytes(4);
    return ok ? LoadBe32(reinterpret_cast<const uint8_t*>(raw.data())) : 0;
  }
  uint16_t U16() {
    std::string_view raw = Bytes(2);
    return ok ? LoadBe16(reinterpret_cast<const uint8_t*>(raw.data())) : 0;
  }
};

bool ValidName(std::string_view name) {
  return name.size() <= kNameMax && name.find('\0') == std::string_view::npos;
}

}  // namespace

const Export* Exports::Find(std::string_view name) const {
  if (name.empty()) return list.empty() ? nullptr : &list.front();
  for (const Export& item : list) {
    if (item.name == name) return &item;
  }
  return nullptr;
}

Negotiation::Negotiation(const Exports& exports) : exports_(exports) {
  Append64(output_, kNbdMagic);
  Append64(output_, kOptionMagic);
  Append16(output_, kFlagFixedNewstyle | kFlagNoZeroes);
}

size_t Negotiation::Feed(const uint8_t* bytes, size_t count) {
  size_t used = 0;
  while (used < count && output_.empty() && state_ != State::Done && state_ != State::Ended) {
    const size_t take = std::min(count - used, wanted_ - input_.size());
    if (state_ == State::Skip) {
      wanted_ -= take;
    } else {
      input_.append(reinterpret_cast<const char*>(bytes) + used, take);
    }
    used += take;
    if (input_.size() < wanted_) break;
    switch (state_) {
      case State::Flags:
        TakeFlags();
        break;
      case State::Option:
        TakeHeader();
        break;
      case State::Data:
      case State::Skip:
        TakeOption();
        break;
      case State::Done:
      case State::Ended:
        break;
    }
  }
  return used;
}

void Negotiation::End(std::string reason) {
  reason_ = std::move(reason);
  state_ = State::Ended;
}

void Negotiation::TakeFlags() {
  const uint32_t flags = LoadBe32(reinterpret_cast<const uint8_t*>(input_.data()));
  if (flags & ~uint32_t{kFlagFixedNewstyle | kFlagNoZeroes}) {
    End("unknown client flags");
    return;
  }
  zeroes_ = (flags & kFlagNoZeroes) == 0;
  input_.clear();
  wanted_ = kOptionBytes;
  state_ = State::Option;
}

void Negotiation::TakeHeader() {
  const uint8_t* header = reinterpret_cast<const uint8_t*>(input_.data());
  const uint64_t magic = LoadBe64(header);
  option_ = LoadBe32(header + 8);
  const uint32_t length = LoadBe32(header + 12);
  input_.clear();
  if (magic != kOptionMagic) {
    End("an option with a wrong magic number");
  } else if (++options_ > kOptionsMax) {
    End("too many options");
  } else if (length > kOptionSkipMax) {
    End("an option with too much data");
  } else {
    wanted_ = length;
    state_ = length > kOptionDataMax ? State::Skip : State::Data;
    if (length == 0) TakeOption();
  }
}

/** The option's data is complete: carries it out. */
void Negotiation::TakeOption() {
  const bool skipped = state_ == State::Skip;
  state_ = State::Option;
  if (option_ == kOptExportName) {
    if (skipped) {
      End("an export name that is too long");
    } else {
      ExportName();
    }
  } else if (skipped) {
    Refuse(kRepErrTooBig, "the option's data is too long");
  } else if (option_ == kOptAbort) {
    Reply(kRepAck, {});
    End("");
  } else if (option_ == kOptList) {
    ListExports();
  } else if (option_ == kOptInfo || option_ == kOptGo) {
    InfoOrGo();
  } else if (option_ == kOptStructuredReply || option_ == kOptExtendedHeaders) {
    Simple();
  } else if (option_ == kOptListMetaContext || option_ == kOptSetMetaContext) {
    MetaContext();
  } else if (option_ == kOptStartTls) {
    Refuse(kRepErrUnsupported, "this server does not offer TLS");
  } else {
    Refuse(kRepErrUnsupported, "this server does not know the option");
  }
  input_.clear();
  if (state_ == State::Option) wanted_ = kOptionBytes;
}

void Negotiation::Reply(uint32_t type, std::string_view data) {
  Append64(output_, kOptionReplyMagic);
  Append32(output_, option_);
  Append32(output_, type);
  Append32(output_, static_cast<uint32_t>(data.size()));
  output_.append(data);
}

uint16_t Negotiation::FlagsOf(const Export& found) const {
  return mode_ == Mode::Simple ? found.flags : found.flags | kFlagSendDf;
}

void Negotiation::ExportName() {
  const Export* found = exports_.Find(input_);
  if (found == nullptr) {
    // The option has no way to say no.
    End("the export \"" + input_.substr(0, 64) + "\" does not exist");
    return;
  }
  Append64(output_, found->size_bytes);
  Append16(output_, FlagsOf(*found));
  if (zeroes_) output_.append(124, '\0');
  name_ = found->name;
  allocation_ = allocation_ && allocation_name_ == name_;
  state_ = State::Done;
}

void Negotiation::ListExports() {
  if (!input_.empty()) {
    Refuse(kRepErrInvalid, "LIST takes no data");
    return;
  }
  for (const Export& item : exports_.list) {
    std::string data;
    Append32(data, static_cast<uint32_t>(item.name.size()));
    data += item.name;
    data += item.description;
    Reply(kRepServer, data);
  }
  Reply(kRepAck, {});
}

void Negotiation::InfoOrGo() {
  Reader reader{input_};
  const std::string_view name = reader.Bytes(reader.U32());
  const uint32_t count = reader.U16();
  std::vector<uint16_t> wanted;
  for (uint32_t i = 0; i < count && reader.ok; i++) wanted.push_back(reader.U16());
  if (!reader.ok || !reader.rest.empty() || !ValidName(name)) {
    Refuse(kRepErrInvalid, "lengths inside the option do not add up");
    return;
  }
  const Export* found = exports_.Find(name);
  if (found == nullptr) {
    Refuse(kRepErrUnknown, "there is no export of that name");
    return;
  }
  SendExportInfo(*found, wanted);
  Reply(kRepAck, {});
  if (option_ != kOptGo) return;
  name_ = found->name;
  allocation_ = allocation_ && allocation_name_ == name_;
  state_ = State::Done;
}

void Negotiation::SendExportInfo(const Export& found, const std::vector<uint16_t>& wanted) {
  std::string data;
  Append16(data, kInfoExport);
  Append64(data, found.size_bytes);
  Append16(data, FlagsOf(found));
  Reply(kRepInfo, data);
  data.clear();
  Append16(data, kInfoBlockSize);
  Append32(data, 1);
  Append32(data, kPreferredBytes);
  Append32(data, exports_.request_bytes_max);
  Reply(kRepInfo, data);
  auto asked = [&](uint16_t info) {
    return std::find(wanted.begin(), wanted.end(), info) != wanted.end();
  };
  auto text = [&](uint16_t info, const std::string& value) {
    data.clear();
    Append16(data, info);
    Reply(kRepInfo, data + value);
  };
  if (asked(kInfoName)) text(kInfoName, found.name);
  if (asked(kInfoDescription) && !found.description.empty()) {
    text(kInfoDescription, found.description);
  }
}

/** STRUCTURED_REPLY and EXTENDED_HEADERS: options without data that switch something on. */
void Negotiation::Simple() {
  if (!input_.empty()) {
    Refuse(kRepErrInvalid, "the option takes no data");
    return;
  }
  const Mode asked = option_ == kOptExtendedHeaders ? Mode::Extended : Mode::Structured;
  if (mode_ == Mode::Extended && asked == Mode::Structured) {
    Refuse(kRepErrExtendedHeaders, "extended headers were negotiated already");
    return;
  }
  if (mode_ == asked) {
    Refuse(kRepErrInvalid, "this was negotiated already");
    return;
  }
  mode_ = asked;
  // Contexts were selected for the other kind of reply.
  allocation_ = false;
  Reply(kRepAck, {});
}

void Negotiation::MetaContext() {
  const bool set = option_ == kOptSetMetaContext;
  if (set) allocation_ = false;
  if (mode_ == Mode::Simple) {
    Refuse(kRepErrInvalid, "structured replies must be negotiated first");
    return;
  }
  Reader reader{input_};
  const std::string_view name = reader.Bytes(reader.U32());
  const uint32_t count = reader.U32();
  bool matched = !set && count == 0;
  bool valid = true;
  for (uint32_t i = 0; i < count && reader.ok; i++) {
    const std::string_view query = reader.Bytes(reader.U32());
    if (query == kAllocation || (!set && query == "base:")) matched = true;
    if (!ValidName(query) || query.find(':') == std::string_view::npos) valid = false;
  }
  if (!reader.ok || !reader.rest.empty() || !valid || !ValidName(name)) {
    Refuse(kRepErrInvalid, "the option's queries are malformed");
    return;
  }
  const Export* found = exports_.Find(name);
  if (found == nullptr) {
    Refuse(kRepErrUnknown, "there is no export of that name");
    return;
  }
  if (matched) {
    std::string data;
    Append32(data, set ? kAllocationContext : 0);
    data += kAllocation;
    Reply(kRepMetaContext, data);
  }
  if (set) {
    allocation_ = matched;
    allocation_name_ = found->name;
  }
  Reply(kRepAck, {});
}

}  // namespace ovs::nbd
