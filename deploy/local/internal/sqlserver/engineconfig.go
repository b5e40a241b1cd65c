package sqlserver

import (
	"fmt"
	"os"
	"path/filepath"
)

// engineConfig bounds what ClickHouse takes of a laptop: its defaults are made for a machine of its own.
const engineConfig = `<clickhouse>
    <users_config>%s</users_config>
    <max_server_memory_usage>%d</max_server_memory_usage>
    <mark_cache_size>33554432</mark_cache_size>
    <index_mark_cache_size>4194304</index_mark_cache_size>
    <primary_index_cache_size>33554432</primary_index_cache_size>
    <uncompressed_cache_size>0</uncompressed_cache_size>
    <index_uncompressed_cache_size>0</index_uncompressed_cache_size>
    <query_condition_cache_size>4194304</query_condition_cache_size>
    <compiled_expression_cache_size>8388608</compiled_expression_cache_size>
    <mmap_cache_size>64</mmap_cache_size>
    <max_thread_pool_free_size>16</max_thread_pool_free_size>
    <max_io_thread_pool_size>16</max_io_thread_pool_size>
    <max_io_thread_pool_free_size>0</max_io_thread_pool_free_size>
    <background_pool_size>2</background_pool_size>
    <background_merges_mutations_concurrency_ratio>2</background_merges_mutations_concurrency_ratio>
    <background_move_pool_size>1</background_move_pool_size>
    <background_fetches_pool_size>1</background_fetches_pool_size>
    <background_common_pool_size>2</background_common_pool_size>
    <background_schedule_pool_size>4</background_schedule_pool_size>
    <merge_tree>
        <number_of_free_entries_in_pool_to_lower_max_size_of_merge>1</number_of_free_entries_in_pool_to_lower_max_size_of_merge>
        <number_of_free_entries_in_pool_to_execute_mutation>1</number_of_free_entries_in_pool_to_execute_mutation>
        <number_of_free_entries_in_pool_to_execute_optimize_entire_partition>1</number_of_free_entries_in_pool_to_execute_optimize_entire_partition>
        <fsync_after_insert>1</fsync_after_insert>
        <fsync_part_directory>1</fsync_part_directory>
    </merge_tree>
</clickhouse>
`

// usersConfig splits the rights of the one user that libchdb logs in into two roles. A session of a reader
// keeps only the second one, and no statement that a reader may send can take the first one back.
//
// Indices that skip parts of a table are made when parts are merged and not for each insert: an insert of some rows is
// four files smaller by it, which is a quarter, and such a part is read as a whole in any case.
const usersConfig = `<clickhouse>
    <profiles><default>
        <max_threads>4</max_threads>
        <materialize_skip_indexes_on_insert>0</materialize_skip_indexes_on_insert>
    </default></profiles>
    <roles>
        <writer><grants><query>GRANT ALL ON *.*</query></grants></writer>
        <reader><grants><query>GRANT SHOW, SELECT, dictGet ON *.*</query></grants></reader>
    </roles>
    <users>
        <default>
            <password></password>
            <networks><ip>::/0</ip></networks>
            <profile>default</profile>
            <quota>default</quota>
            <grants><query>GRANT writer, reader</query></grants>
        </default>
    </users>
    <quotas><default/></quotas>
</clickhouse>
`

// writeEngineConfig puts the engine's configuration into the data directory and returns its path.
func writeEngineConfig(cfg Config) (string, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return "", fmt.Errorf("configuring the SQL engine: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("configuring the SQL engine: %w", err)
	}
	users, server := filepath.Join(dir, "users.xml"), filepath.Join(dir, "config.xml")
	if err := os.WriteFile(users, []byte(usersConfig), 0o600); err != nil {
		return "", fmt.Errorf("configuring the SQL engine: %w", err)
	}
	if err := os.WriteFile(server, fmt.Appendf(nil, engineConfig, users, cfg.MaxMemory), 0o600); err != nil {
		return "", fmt.Errorf("configuring the SQL engine: %w", err)
	}
	return server, nil
}
