{
  "target_defaults": {
    "include_dirs": ["<!(node -p \"require('node-addon-api').include_dir\")", "native"],
    "defines": ["NAPI_VERSION=8", "NAPI_DISABLE_CPP_EXCEPTIONS", "NODE_ADDON_API_DISABLE_DEPRECATED", "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS"],
    "cflags_cc!": ["-std=gnu++17", "-std=gnu++20", "-std=gnu++1y"],
    "cflags_cc": ["<!@(node -p \"require('./native.json').flags.join(' ')\")"],
    "ldflags": ["-Wl,-z,now"]
  },
  "targets": [
    {
      "target_name": "erasure",
      "sources": ["<!@(node tools/native.mjs sources erasure)"],
      "libraries": ["<!@(node tools/native.mjs libraries erasure)"]
    },
    {
      "target_name": "disk",
      "sources": ["<!@(node tools/native.mjs sources disk)"],
      "libraries": ["<!@(node tools/native.mjs libraries disk)"]
    },
    {
      "target_name": "nbd",
      "sources": ["<!@(node tools/native.mjs sources nbd)"],
      "libraries": ["<!@(node tools/native.mjs libraries nbd)"]
    },
    {
      "target_name": "transport",
      "sources": ["<!@(node tools/native.mjs sources transport)"],
      "libraries": ["<!@(node tools/native.mjs libraries transport)"]
    },
    {
      "target_name": "exit",
      "sources": ["<!@(node tools/native.mjs sources exit)"]
    },
    {
      "target_name": "kv",
      "sources": ["<!@(node tools/native.mjs sources kv)"],
      "libraries": ["<!@(node tools/native.mjs libraries kv)"]
    }
  ]
}
