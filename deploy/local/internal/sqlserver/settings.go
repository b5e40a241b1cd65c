package sqlserver

import (
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// reserved are parameters of the interface itself; every other one is a setting of ClickHouse, unless it
// begins with param_.
var reserved = map[string]bool{
	"query": true, "database": true, "default_format": true, "user": true, "password": true, "quota_key": true,
	"query_id": true, "compress": true, "decompress": true, "session_id": true, "session_timeout": true,
	"session_check": true, "client_protocol_version": true, "role": true, "stacktrace": true, "buffer_size": true,
	"wait_end_of_query": true, "http_write_exception_in_output_format": true, "enable_http_compression": true,
	"send_progress_in_http_headers": true, "http_headers_progress_interval_ms": true, "add_http_cors_header": true,
	"network_compression_method": true, "network_zstd_compression_level": true, "http_zlib_compression_level": true,
	"cancel_http_readonly_queries_on_client_close": true, "http_response_buffer_size": true,
	"date_time_input_format_hint": true, "close_session": true, "http_native_compression_disable_checksumming_on_decompress": true,
}

type setting struct{ name, value string }

// readerSettings are those that a reader may choose: how an answer looks and how little it may cost. None of
// them names a file, a host or a right.
var readerSettings = map[string]bool{
	"date_time_output_format": true, "session_timezone": true, "join_use_nulls": true, "extremes": true, "final": true,
	"limit": true, "offset": true, "max_block_size": true, "max_threads": true, "use_query_cache": true,
	"result_overflow_mode": true, "timeout_overflow_mode": true, "read_overflow_mode": true, "totals_mode": true,
	"group_by_use_nulls": true, "aggregate_functions_null_for_empty": true, "any_join_distinct_right_table_keys": true,
	"prefer_column_name_to_alias": true, "join_algorithm": true, "optimize_read_in_order": true, "enable_analyzer": true,
	"allow_experimental_analyzer": true, "use_uncompressed_cache": true, "log_queries": true, "format_csv_delimiter": true,
	"max_rows_to_read": true, "max_bytes_to_read": true, "max_result_bytes": true, "max_query_size": true,
	"allow_experimental_json_type": true, "use_variant_as_common_type": true, "cast_string_to_dynamic_use_inference": true,
	"optimize_throw_if_noop": true, "union_default_mode": true, "send_logs_level": true,
}

// requestSettings returns the settings named in the URL, by name.
func requestSettings(query url.Values) []setting {
	var out []setting
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if !reserved[name] && !strings.HasPrefix(name, "param_") {
			out = append(out, setting{name, query.Get(name)})
		}
	}
	return out
}

// sessionSetup is the session that a request runs in.
func (s *Server) sessionSetup(r *request) (setup, *exception) {
	u := setup{settings: r.settings, database: r.database}
	switch {
	case !r.writes:
		var refusal *exception
		if u.settings, refusal = s.boundReader(r.settings); refusal != nil {
			return setup{}, refusal
		}
		u.role, u.readonly = "reader", "1"
	case r.readonly:
		u.readonly = "2"
	}
	return u, nil
}

// boundReader applies a reader's settings within the bounds of the configuration.
func (s *Server) boundReader(wanted []setting) ([]setting, *exception) {
	bounds := map[string]int64{
		"max_execution_time": int64(s.cfg.ReadTime.Seconds()),
		"max_result_rows":    s.cfg.ReadRows,
		"max_memory_usage":   s.cfg.ReadMemory,
	}
	out := []setting{
		{"allow_introspection_functions", "0"}, {"allow_ddl", "0"}, {"max_result_bytes", strconv.FormatInt(s.cfg.ReadMemory/4, 10)},
	}
	for _, name := range slices.Sorted(maps.Keys(bounds)) {
		out = append(out, setting{name, strconv.FormatInt(bounds[name], 10)})
	}
	for _, w := range wanted {
		limit, bounded := bounds[w.name]
		switch {
		case bounded:
			v, err := strconv.ParseFloat(w.value, 64)
			if w.name == "max_execution_time" && err == nil && v > float64(limit) {
				// clickhouse-go sends what is left of its context's deadline: to refuse a patient client helps nobody.
				continue
			}
			if err != nil || v < 0 || v > float64(limit) {
				return nil, s.refuse(codeSettingBounds, "SETTING_CONSTRAINT_VIOLATION", "Setting %s shouldn't be greater than %d", w.name, limit)
			}
			if v == 0 { // "no limit"
				continue
			}
		case w.name == "readonly", w.name == "log_comment":
			continue // the server's own: stricter than what could be asked for, and how it finds the statement
		case readerSettings[w.name]:
		case strings.HasPrefix(w.name, "output_format_") && w.name != "output_format_schema":
		default:
			return nil, s.refuse(codeReadonly, "READONLY", "Cannot modify '%s' setting in readonly mode", w.name)
		}
		out = append(out, w)
	}
	return out, nil
}

// cutSettings takes the SETTINGS clause at the end of a reader's statement out of it, where it assigns plain
// values: a session that only reads refuses any such clause, also a harmless one. What it does not understand
// it leaves for the session to refuse.
func cutSettings(sql string) (string, []setting) {
	var tokens []token
	clause, depth := -1, 0
	for lex := (lexer{sql: sql}); ; {
		t, ok := lex.next()
		if !ok {
			break
		}
		switch {
		case t.text == "(":
			depth++
		case t.text == ")":
			depth--
		case depth == 0 && t.is("SETTINGS"):
			clause = len(tokens)
		}
		tokens = append(tokens, t)
	}
	if clause < 0 {
		return sql, nil
	}
	var out []setting
	i := clause + 1
	for i+2 < len(tokens) && tokens[i].kind == word && tokens[i+1].text == "=" {
		end := i + 2
		for end < len(tokens) && tokens[end].text != "," && !tokens[end].is("FORMAT") {
			end++
		}
		value := sql[tokens[i+2].start:tokens[end-1].end]
		if tokens[i+2].kind == literal {
			value = unquote(value)
		}
		out = append(out, setting{tokens[i].text, value})
		i = end
		if i == len(tokens) || tokens[i].text != "," {
			break
		}
		i++
	}
	switch {
	case len(out) == 0:
	case i == len(tokens):
		return sql[:tokens[clause].start], out
	case i == len(tokens)-2 && tokens[i].is("FORMAT"):
		return sql[:tokens[clause].start] + sql[tokens[i].start:], out
	}
	return sql, nil
}

var unescape = strings.NewReplacer(`\\`, `\`, `\'`, `'`, `\n`, "\n", `\t`, "\t", `\r`, "\r", `''`, `'`)

func unquote(text string) string {
	return unescape.Replace(strings.TrimSuffix(strings.TrimPrefix(text, "'"), "'"))
}

func set(settings []setting) string {
	parts := make([]string, len(settings))
	for i, p := range settings {
		parts[i] = quoteIdentifier(p.name) + " = " + quoteString(p.value)
	}
	return "SET " + strings.Join(parts, ", ")
}

func quoteString(text string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(text) + "'"
}

func quoteIdentifier(name string) string {
	return "`" + strings.NewReplacer(`\`, `\\`, "`", "\\`").Replace(name) + "`"
}
