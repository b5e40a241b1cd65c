// Package deadletters lands the topic dead-letters in ClickHouse, so that what was given up can be listed, counted and
// replayed: a row of dead_letters for each time that a letter's record failed. cmd/recorder runs it beside the recorder,
// in a consumer group of its own.
//
// A row says what is in the letter's headers and where the letter lies; the record itself stays in Kafka. It is a function
// of the letter alone (schemas.LetterID and the number of its replay name it, the letter's time and offset version it), so
// that the topic may be read again from its start. What has become of a letter, the view dead_letter_status works out
// when it is asked: see schemas/clickhouse.
//
// Nothing is dead-lettered from here. A letter that cannot be read lands with as much of it as can be; a row that
// ClickHouse refuses lands without the texts in it, and where that is refused too the log says so.
package deadletters
