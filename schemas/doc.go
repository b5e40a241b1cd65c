// Package schemas is the contract between the stages: the records of every topic, the table of topics, the names that
// are functions of content (document, run and record identities, object keys), and the DDL of ClickHouse.
//
// Every stage, the API and the command line import it; it imports the standard library only. Changes are additive:
// readers ignore unknown fields, and the golden records of each version in testdata parse for ever.
package schemas
