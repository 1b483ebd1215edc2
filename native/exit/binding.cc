// SPDX-License-Identifier: Apache-2.0
// Ends the process at once, by _exit(2). Node's own way out first shuts its V8 platform down, and
// in some releases waits there for a worker thread that sleeps for ever (nodejs/node#54918): a
// daemon that met it would neither serve nor be replaced. Same name as src/native/exit.ts.

#include <napi.h>
#include <unistd.h>

#include "common/check.h"

namespace {

Napi::Value EndProcess(const Napi::CallbackInfo& info) {
  OVS_CHECK(info.Length() == 1 && info[0].IsNumber());
  _exit(info[0].As<Napi::Number>().Int32Value());
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  exports.Set("endProcess", Napi::Function::New(env, EndProcess));
  return exports;
}

}  // namespace

NODE_API_MODULE(exit, Init)
