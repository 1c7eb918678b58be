import CSmallholdEngine
import Foundation

/// A failure; nothing was changed. Kinds are those of `smallhold_engine.h`.
public struct EngineError: Error, CustomStringConvertible {
    public let kind: Int32
    public let description: String
}

/// A bundle with all of its tasks, asked by JSON; used by one thread at a time, the others wait.
public final class Engine {
    private let program: OpaquePointer
    private let lock = NSLock()

    private init(_ program: OpaquePointer) {
        self.program = program
    }

    deinit {
        smallhold_program_free(program)
    }

    /// Open a bundle on the disk, a folder or one file, which is mapped and not copied.
    ///
    /// - Parameters:
    ///   - path: A folder or one file.
    ///   - keys: PEM texts one behind the other, one of which has to have signed the bundle; nil says that the app has
    ///     verified it itself.
    /// - Throws: `EngineError`.
    public static func open(path: String, keys: String?) throws -> Engine {
        try opened { program, message in smallhold_program_open(path, keys, nil, program, message) }
    }

    /// Open a bundle in one file from memory; its bytes are copied. See `open`.
    public static func of(bundle: Data, keys: String?) throws -> Engine {
        let now = UInt64(max(Date().timeIntervalSince1970, 0))
        return try bundle.withUnsafeBytes { bytes in
            try opened { program, message in
                smallhold_program_from_bytes(
                    bytes.bindMemory(to: UInt8.self).baseAddress, bytes.count, keys, now, nil, program, message)
            }
        }
    }

    /// The answer to one request: both are JSON objects, see "Decide without Python". A refused request is answered too,
    /// by an object with the member `error`.
    public func ask(_ request: String) -> String {
        lock.lock()
        defer { lock.unlock() }
        var answer: UnsafePointer<CChar>?
        let bytes = request.utf8.count
        _ = request.withCString { smallhold_program_ask(program, $0, bytes, &answer) }
        return answer.map { String(cString: $0) } ?? ""
    }

    private static func opened(
        _ open: (UnsafeMutablePointer<OpaquePointer?>, UnsafeMutablePointer<CChar>) -> Int32
    ) throws -> Engine {
        var program: OpaquePointer?
        var message = [CChar](repeating: 0, count: Int(SMALLHOLD_MESSAGE_BYTES))
        let kind = open(&program, &message)
        guard kind == 0, let found = program else {
            throw EngineError(kind: kind, description: String(cString: message))
        }
        return Engine(found)
    }
}
