package schemas

import "strconv"

// LetterID names the dead letter whose headers are given. A record that was replayed carries its letter's name, and so
// does its next letter; any other letter is named after the record that failed and the part of it that did, so that a
// letter which a crash has sent twice is one.
func LetterID(headers map[string]string) string {
	if id := headers[HeaderLetter]; IsUUID(id) {
		return id
	}
	return nameUUID("letter", headers[HeaderStage], headers[HeaderTopic], headers[HeaderPartition], headers[HeaderOffset],
		headers[HeaderRunID], headers[HeaderPage])
}

// PartLetterID names the letter of one page of the run, given up alone when the record of several that letter whole holds
// was replayed. Another replay of the whole in which the same page fails gives the same name.
func PartLetterID(whole, runID string, page int) string {
	return nameUUID("letter", "part", whole, runID, strconv.Itoa(page))
}
