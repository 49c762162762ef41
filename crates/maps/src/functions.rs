//! The functions that programs may call: VRL's standard library without what is not pure or not bounded.

use std::sync::LazyLock;

use vrl::compiler::Function;

/// All that the compiler is given.
pub(crate) static FUNCTIONS: LazyLock<Vec<Box<dyn Function>>> = LazyLock::new(|| {
    vrl::stdlib::all().into_iter().filter(|function| left_out(function.identifier()).is_none()).collect()
});

const CLOCK: &str = "a retry must make the same request; use .time or .receivedat of the event";
const RANDOM: &str = "a retry must make the same request; use .id of the event";
const OUTSIDE: &str = "a program reads its input and nothing else";
const UNBOUNDED: &str = "a small input can make it take any amount of memory or time";

/// Why a function of VRL is not there. What the build leaves out (network, environment, system) is
/// named too, for a message that helps.
pub(crate) fn left_out(name: &str) -> Option<&'static str> {
    match name {
        // The log readers fill in the current year.
        "now" | "parse_syslog" | "parse_klog" | "parse_linux_authorization" => Some(CLOCK),
        "uuid_v4" | "uuid_v7" | "random_bool" | "random_bytes" | "random_float" | "random_int" => {
            Some(RANDOM)
        }
        "log"
        | "dns_lookup"
        | "reverse_dns"
        | "http_request"
        | "get_env_var"
        | "get_hostname"
        | "get_timezone_name"
        | "parse_proto"
        | "encode_proto"
        | "parse_etld"
        | "validate_json_schema" => Some(OUTSIDE),
        // `set` takes an index from data; `unflatten`, XML and YAML nest as deep as the text says;
        // packed data swells; grok goes back over its input; a number is written with any count of digits.
        "set" | "unflatten" | "parse_xml" | "parse_yaml" | "decode_gzip" | "decode_zlib" | "decode_zstd"
        | "decode_snappy" | "decode_lz4" | "parse_grok" | "parse_groks" | "format_number" => Some(UNBOUNDED),
        _ => None,
    }
}
